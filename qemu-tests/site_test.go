package qemutests_test

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"regexp"
	"testing"
	"time"

	"huck/imager/api"
	"huck/imager/image"
	"huck/qemu-tests/disks"
	"huck/qemu-tests/lab"
	"huck/qemu-tests/proc"
	"huck/qemu-tests/site"
	"huck/qemu-tests/vm"
)

const mib = 1 << 20

// rate is the boot server's cap: what two emulated machines take without loss
// even where they do not get two cores to themselves, and so little that a
// second between two machines is a small part of the image.
const rate = "24M"

// lossyRate is for what is dropped on purpose in an image that is small: a
// second between two machines is then less of it.
const lossyRate = "16M"

// system is an installed system that is captured.
type system struct {
	hostname string
	size     int64
	memory   int
	disk     func(s *labSite) string
}

var (
	tiny = system{hostname: disks.TinyHostname, size: disks.TinySize, memory: vm.Memory, disk: func(s *labSite) string {
		return s.tinyDisk("tiny-source", 40*mib, 1)
	}}
	debian = system{hostname: disks.DebianHostname, size: disks.DebianSize, memory: 384, disk: func(s *labSite) string {
		path, err := debianDisk()
		s.must(err)
		return path
	}}
)

func (s *labSite) tinyDisk(name string, payload int64, seed uint64) string {
	s.t.Helper()
	path := s.Path(name + ".raw")
	s.must(disks.Tiny{Init: s.Programs.TinyInit, Kernel: s.Programs.Kernel(), Payload: payload, Seed: seed}.Write(s.ctx, path))
	return path
}

// golden captures a system as the image "golden".
func (s *labSite) golden(sys system) captured {
	s.t.Helper()
	return s.capture(sys.disk(s), "golden")
}

// captured is an image in the store and how many regions and chunks it has.
type captured struct {
	site.Captured
	digest          image.ID
	regions, chunks int
}

func (s *labSite) capture(disk, name string) captured {
	s.t.Helper()
	start := time.Now()
	got, err := s.Capture(s.ctx, disk, name)
	s.must(err)
	c := captured{Captured: got}
	out, err := s.Imager(s.ctx, "show", got.Ref, "--store", s.Store())
	s.must(err)
	var shown struct {
		Tag      struct{ Digest image.ID }
		Manifest struct {
			Map struct{ Regions, Chunks int }
		}
	}
	s.must(json.Unmarshal(out, &shown))
	c.digest, c.regions, c.chunks = shown.Tag.Digest, shown.Manifest.Map.Regions, shown.Manifest.Map.Chunks
	if c.regions == 0 || c.chunks == 0 || c.EncodedBytes < int64(4*mib) {
		s.t.Fatalf("captured an image of %+v, shown as %+v: that is no system", got, shown)
	}
	s.t.Logf("captured %s in %v: %d bytes used, %d encoded, %d chunks", got.Ref, time.Since(start), got.ImageBytes, got.EncodedBytes, c.chunks)
	return c
}

func (s *labSite) machine(name string, size int64, memory int) *vm.Machine {
	s.t.Helper()
	m, err := s.AddMachine(s.ctx, name, size, memory)
	s.must(err)
	return m
}

// started powers a machine on and assigns it something once it has registered;
// it returns the node's ID and the position of the events from then on.
func (s *labSite) started(m *vm.Machine, ref, rule string, options ...string) (node string, from int) {
	s.t.Helper()
	from = s.Events.Len()
	s.must(m.PowerOn())
	n, err := s.Assign(s.ctx, m, ref, rule, options...)
	s.must(err)
	return n.ID, from
}

func (s *labSite) expect(m *vm.Machine, pattern string) {
	s.t.Helper()
	_, _, err := m.Expect(s.ctx, pattern, 0)
	s.must(err)
}

func (s *labSite) login(m *vm.Machine, sys system) {
	s.t.Helper()
	s.expect(m, regexp.QuoteMeta(sys.hostname)+" login: ")
	s.t.Logf("%s: %s login: %v after power-on", m.Name(), sys.hostname, time.Since(m.OnAt()).Round(time.Millisecond))
}

// quiet waits until the server has sent nothing by multicast for a second: it
// finishes what a machine that is gone has asked for.
func (s *labSite) quiet() {
	s.t.Helper()
	for last := s.sent().Multicast; ; {
		s.must(pause(s.ctx, time.Second))
		now := s.sent().Multicast
		if now-last < 10_000 { // the kernel's own reports
			return
		}
		last = now
	}
}

func (s *labSite) sent() lab.Sent {
	s.t.Helper()
	sent, err := s.Network.Sent(s.ctx)
	s.must(err)
	return sent
}

// mark is a point from which bytes are counted.
type mark struct {
	sent  lab.Sent
	files int64
}

// mark notes what has been sent so far.
func (s *labSite) mark() mark {
	s.t.Helper()
	files, _ := s.BootFileBytes() // none is served before the first boot
	return mark{sent: s.sent(), files: files}
}

// imageBytes returns what of the bytes sent since m was for the image: all
// multicast, and what unicast is left without kernels and initramfs, 40 bytes
// of header to 1460 of payload and, with loss in percent, the same again for
// each packet lost.
func (s *labSite) imageBytes(m mark, loss int) (total, unicast int64) {
	s.t.Helper()
	files, err := s.BootFileBytes()
	s.must(err)
	sent := s.sent().Sub(m.sent)
	netboot := float64(files-m.files) * 1.03 * (1 + 2*float64(loss)/100)
	unicast = max(0, sent.Unicast-int64(netboot))
	return sent.Multicast + unicast, unicast
}

// verified waits for a machine's read-back and checks that it is the image.
func (s *labSite) verified(node string, from int, img captured) int {
	s.t.Helper()
	v, next, err := s.Site.Verified(s.ctx, node, from)
	s.must(err)
	if v.Digest != img.digest || v.Regions != img.regions || v.Differ != 0 {
		s.t.Errorf("node %s read back %+v, want %d regions of @%s and none that differs", node, v, img.regions, img.digest)
	}
	kexec := func(e api.Event) bool { return e.Node == node && e.Type == api.EventStep && e.Step == "kexec" }
	for _, e := range s.Events.Since(from)[:next-from] {
		if kexec(e) {
			s.t.Errorf("node %s reported kexec before the read-back", node)
		}
	}
	return next
}

// installed waits for the end of a machine's installation.
func (s *labSite) installed(node string, from int, img captured) api.Result {
	s.t.Helper()
	r, _, err := s.Installed(s.ctx, node, from)
	s.must(err)
	if r.Image != "@"+img.digest.String() || r.EncodedBytes != img.EncodedBytes {
		s.t.Errorf("node %s installed %+v, want @%s with %d encoded bytes", node, r, img.digest, img.EncodedBytes)
	}
	return r
}

// received sums a result's transports.
func received(r api.Result) (sum int64) {
	for _, n := range r.Received {
		sum += n
	}
	return sum
}

// difference asks the imager what of an image a disk does not hold.
func (s *labSite) difference(ref, disk string) (differ int, encoded int64) {
	s.t.Helper()
	out, err := s.Imager(s.ctx, "verify", ref, "--store", s.Store(), "--against", disk)
	var exit *proc.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.Code == 5) {
		s.t.Fatal(err)
	}
	var r struct {
		Differ       int   `json:"differ"`
		EncodedBytes int64 `json:"encoded_bytes"`
	}
	s.must(json.Unmarshal(out, &r))
	if (r.Differ == 0) != (err == nil) {
		s.t.Errorf("imager verify found %d differences and ended with %v", r.Differ, err)
	}
	return r.Differ, r.EncodedBytes
}

func diskHash(t *testing.T, path string) [32]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

// randomFile fills a file with random bytes.
func randomFile(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{7}), size); err != nil {
		f.Close()
		return fmt.Errorf("fill %s: %w", path, err)
	}
	return f.Close()
}
