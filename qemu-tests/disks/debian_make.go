package disks

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"huck/qemu-tests/proc"
	"huck/qemu-tests/vm"
)

// debianPackages on top of minbase: a kernel, what boots it and what a login
// takes.
const debianPackages = "linux-image-cloud-amd64,systemd-sysv,udev,dbus,grub-pc-bin,grub2-common,zstd,kmod,login"

// debian is a disk in the making.
type debian struct {
	Layout
	work, tree, disk string
	mirror           string
	log              *slog.Logger
}

// unshared runs a program in a mount namespace of its own, so that what it
// mounts is gone when it ends, however it does.
func (d *debian) unshared(ctx context.Context, input string, args ...string) error {
	args = append([]string{"unshare", "--mount", "--propagation", "private"}, args...)
	env := append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", "TMPDIR=/tmp")
	_, err := proc.RunInput(ctx, proc.Command{Args: args, Env: env}, []byte(input))
	return err
}

func (d *debian) bootstrap(ctx context.Context) error {
	d.log.Info("debootstrap", "suite", debianSuite)
	return d.unshared(ctx, "", "debootstrap", "--variant=minbase", "--include="+debianPackages+","+d.packages, debianSuite, d.tree, d.mirror)
}

type textFile struct {
	name string
	mode os.FileMode
	text string
}

// files are what an administrator would write.
func (l Layout) files() []textFile {
	return []textFile{
		{"etc/hostname", 0o644, l.Hostname + "\n"},
		{"etc/hosts", 0o644, "127.0.0.1 localhost\n127.0.1.1 " + l.Hostname + "\n"},
		{"etc/default/grub", 0o644, "GRUB_DEFAULT=0\nGRUB_TIMEOUT=1\nGRUB_DISTRIBUTOR=Debian\n" +
			"GRUB_CMDLINE_LINUX_DEFAULT=\"\"\nGRUB_CMDLINE_LINUX=\"console=ttyS0 " + vm.KernelArgs + "\"\nGRUB_TERMINAL=\"console serial\"\nGRUB_SERIAL_COMMAND=\"serial --speed=115200\"\n"},
		{"etc/fstab", 0o644, l.fstab + "UUID=" + espUUID + " /boot/efi vfat umask=0077 0 1\nUUID=" + swapUUID + " none swap sw 0 0\n"},
		{finishPath, 0o755, finishScript},
	}
}

// The first boot runs a script in place of systemd, with the disk as /dev/vda.
const (
	finishPath   = "usr/local/sbin/finish"
	finishScript = `#!/bin/sh
# Runs from /run: an open file that is removed would keep / from going read-only.
[ "$0" = /run/finish ] || { cp "$0" /run/finish && exec sh /run/finish; }
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -o remount,rw / &&
grub-install --target=i386-pc /dev/vda &&
update-grub &&
grep -qE "root=(UUID=|/dev/mapper/)" /boot/grub/grub.cfg &&
rm /` + finishPath + ` &&
sync && mount -o remount,ro / && echo finish: done || echo finish: failed
poweroff -f
`
)

const shrinkScript = "rm -rf var/cache/apt/* var/lib/apt/lists/* var/log/* usr/share/locale/* usr/share/man/* " +
	"&& find usr/share/doc -type f ! -name copyright -delete"

func (d *debian) configure(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Join(d.tree, "boot/efi"), 0o700); err != nil {
		return err
	}
	for _, f := range d.files() {
		if err := os.WriteFile(filepath.Join(d.tree, f.name), []byte(f.text), f.mode); err != nil {
			return err
		}
	}
	if err := d.unshared(ctx, DebianUser+":"+DebianPassword+"\n", "chroot", d.tree, "chpasswd"); err != nil {
		return err
	}
	// Its hooks go by /etc/fstab.
	return d.unshared(ctx, "", "chroot", d.tree, "update-initramfs", "-u")
}

// shrink removes what no test reads; the disk crosses the virtual network many
// times.
func (d *debian) shrink(ctx context.Context) error {
	_, err := proc.Run(ctx, proc.Command{Dir: d.tree, Args: []string{"sh", "-c", shrinkScript}})
	return err
}

// firstBoot starts the system's own kernel once, to run the finish script.
func (d *debian) firstBoot(ctx context.Context) error {
	d.log.Info("first boot: grub-install, update-grub")
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	boot := func(pattern string) (string, error) {
		found, err := filepath.Glob(filepath.Join(d.tree, "boot", pattern))
		if err != nil || len(found) != 1 {
			return "", fmt.Errorf("want one /boot/%s, found %v", pattern, found)
		}
		return found[0], nil
	}
	kernel, err := boot("vmlinuz-*")
	if err != nil {
		return err
	}
	initrd, err := boot("initrd.img-*")
	if err != nil {
		return err
	}
	machine, err := vm.New(ctx, 1, vm.Config{
		Name: "first-boot", Disks: []string{d.disk}, Memory: 384, LogDir: d.work,
		Kernel: kernel, Initrd: initrd, Append: "root=" + d.root + " ro console=ttyS0 quiet " + vm.KernelArgs + " init=/" + finishPath,
	})
	if err != nil {
		return err
	}
	if err := machine.PowerOn(); err != nil {
		return err
	}
	defer machine.Cut()
	if _, _, err := machine.Expect(ctx, `finish: done`, 0); err != nil {
		return err
	}
	return machine.WaitOff(ctx)
}
