package qemutests_test

import (
	"os"
	"testing"
	"time"

	"huck/qemu-tests/disks"
	"huck/qemu-tests/proc"
	"huck/qemu-tests/vm"
)

// An image made of a tree of files, which never was on a disk, is installed and
// starts: imager wrote the entry that the appliance follows.
func TestImportedTree(t *testing.T) {
	s := newSite(t, 5*time.Minute)
	root, archive, layout := s.Path("root"), s.Path("root.tar.zst"), s.Path("layout.json")
	s.must(disks.Tiny{Init: s.Programs.TinyInit, Kernel: s.Programs.Kernel(), Payload: 8 * mib, Seed: 5}.Tree(root))
	_, err := proc.Run(s.ctx, proc.Command{Args: []string{"tar", "--zstd", "-C", root, "-cf", archive, "."}})
	s.must(err)
	s.must(os.WriteFile(layout, []byte(`{"disk_size":100663296,"esp_size":16777216,"cmdline":"`+disks.TinyCmdline+`"}`), 0o600))
	_, err = s.Imager(s.ctx, "import", "--tree", archive, "--layout", layout, "--store", s.Store(), "--name", "made")
	s.must(err)
	s.must(s.StartServer(s.ctx, rate))
	m := s.machine("made", disks.TinySize+32*mib, vm.Memory)
	s.started(m, "made", "only", "--once", "--then", "kexec")
	s.login(m, tiny)
}
