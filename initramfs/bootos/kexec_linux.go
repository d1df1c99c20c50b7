package bootos

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/u-root/u-root/pkg/boot/linux"
	"golang.org/x/sys/unix"
)

// emptyInitrd is a cpio archive with nothing in it. Without any initrd the next
// kernel takes what lies about in memory for one, and dies before it has a
// console.
var emptyInitrd = []byte("070701" + // magic; 13 fields of 8 hexadecimal digits, and the name
	"00000000" + "00000000" + "00000000" + "00000000" + "00000001" + "00000000" + "00000000" +
	"00000000" + "00000000" + "00000000" + "00000000" + "0000000B" + "00000000" + "TRAILER!!!\x00\x00\x00\x00")

// Load loads the entry for kexec. tmp is a folder in memory for what has to be
// put together. Where kexec_file_load does not work, the older kexec_load is
// tried, except after UEFI, where it hangs.
func (d *Disk) Load(e Entry, tmp string, uefi bool) error {
	kernel, err := d.open(e.Kernel)
	if err != nil {
		return err
	}
	defer kernel.Close()
	initrd, err := d.initrd(e.Initrds, tmp)
	if err != nil {
		return err
	}
	defer initrd.Close()
	err = unix.KexecFileLoad(int(kernel.Fd()), int(initrd.Fd()), e.Cmdline, 0)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("bootos: kexec_file_load of %s: %w", e.Kernel.Path, err)
	if uefi {
		return err
	}
	if older := linux.KexecLoad(kernel, initrd, e.Cmdline, nil, nil); older != nil {
		return errors.Join(err, fmt.Errorf("bootos: kexec_load: %v", older))
	}
	return nil
}

// open opens a file of a volume as one that the kernel can take.
func (d *Disk) open(f File) (*os.File, error) {
	file, err := d.Volumes[f.Volume].FS.Open(f.Path)
	if err != nil {
		return nil, fmt.Errorf("bootos: %w", err)
	}
	return file.(*os.File), nil
}

// initrd returns one file with all initrds.
func (d *Disk) initrd(files []File, tmp string) (*os.File, error) {
	if len(files) == 1 {
		return d.open(files[0])
	}
	out, err := os.CreateTemp(tmp, "initrd")
	if err != nil {
		return nil, fmt.Errorf("bootos: %w", err)
	}
	defer os.Remove(out.Name())
	if err := errors.Join(d.concat(out, files), out.Close()); err != nil {
		return nil, fmt.Errorf("bootos: put initrds together: %w", err)
	}
	// The kernel refuses a file that is open for writing.
	return os.Open(out.Name())
}

func (d *Disk) concat(out io.Writer, files []File) error {
	if len(files) == 0 {
		_, err := out.Write(emptyInitrd)
		return err
	}
	for _, f := range files {
		in, err := d.open(f)
		if err != nil {
			return err
		}
		n, err := io.Copy(out, in)
		in.Close()
		if err != nil {
			return err
		}
		// Archives begin at a multiple of four.
		if _, err := out.Write(make([]byte, -n&3)); err != nil {
			return err
		}
	}
	return nil
}

// Reboot starts the kernel that Load loaded. It returns only if that fails.
func Reboot() error {
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_KEXEC); err != nil {
		return fmt.Errorf("bootos: kexec: %w", err)
	}
	return nil
}
