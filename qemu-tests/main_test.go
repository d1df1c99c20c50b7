package qemutests_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"huck/qemu-tests/disks"
	"huck/qemu-tests/site"
)

// tools are the programs from Debian packages that these tests run.
var tools = []string{
	"qemu-system-x86_64", "ip", "nft", "tc", "ethtool", "sfdisk", "mkfs.ext4", "mkfs.vfat", "mcopy", "mkswap",
	"e2fsck", "debootstrap", "unshare", "xorriso", "mformat", "sbsign", "openssl", "dnsmasq",
}

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := buildDir(); err == nil {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

var (
	buildDir = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "huck-programs-") })

	// programs builds what is tested, once a run.
	programs = sync.OnceValues(func() (site.Programs, error) {
		dir, err := buildDir()
		if err != nil {
			return site.Programs{}, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), scaled(30*time.Minute)) // a cold kernel cache takes ten
		defer cancel()
		return site.Build(ctx, dir)
	})

	// debianDisk makes or finds the real Debian.
	debianDisk = sync.OnceValues(func() (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), scaled(15*time.Minute))
		defer cancel()
		return disks.Debian(ctx, disks.CacheDir(), disks.Ext4(), slog.New(slog.NewTextHandler(os.Stderr, nil)))
	})
)

// scaled stretches a limit by HUCK_TIME_SCALE.
func scaled(d time.Duration) time.Duration {
	if scale, err := strconv.ParseFloat(os.Getenv("HUCK_TIME_SCALE"), 64); err == nil && scale > 0 {
		return time.Duration(scale * float64(d))
	}
	return d
}

// require skips a test on a machine that cannot run it, or fails it where
// REQUIRE_TOOLS=1 says that it must. It needs tools, and those it names.
func require(t *testing.T, more ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots virtual machines")
	}
	var missing []string
	if os.Getuid() != 0 {
		missing = append(missing, "root")
	}
	for _, tool := range slices.Concat(tools, more) {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	switch {
	case len(missing) == 0:
	case os.Getenv("REQUIRE_TOOLS") == "1":
		t.Fatalf("missing: %s", strings.Join(missing, ", "))
	default:
		t.Skipf("missing: %s", strings.Join(missing, ", "))
	}
}

// labSite is a site under test with a deadline for all of it.
type labSite struct {
	*site.Site
	t   *testing.T
	ctx context.Context
}

// newSite makes a site that is removed when the test ends. What its programs
// said is kept if the test failed. Limit is about six times what the test
// takes on an idle machine with two cores.
func newSite(t *testing.T, limit time.Duration) *labSite {
	t.Helper()
	require(t)
	p, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), scaled(limit), fmt.Errorf("the test's %v are over", scaled(limit)))
	base := os.Getenv("HUCK_TEST_ARTIFACTS")
	if base != "" {
		if err := os.MkdirAll(base, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	logs, err := os.MkdirTemp(base, strings.ReplaceAll(t.Name(), "/", "-")+"-")
	if err != nil {
		t.Fatal(err)
	}
	s, err := site.New(ctx, p, t.TempDir(), logs, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		if t.Failed() {
			t.Logf("consoles, packets, events and logs are kept in %s", logs)
		} else {
			_ = os.RemoveAll(logs)
		}
	})
	return &labSite{Site: s, t: t, ctx: ctx}
}

// must fails the test on an error.
func (s *labSite) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}
