package disks

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"huck/qemu-tests/proc"
	"huck/qemu-tests/vm"
)

// debianPackages on top of minbase: a kernel, what boots it and what a login
// takes.
const debianPackages = "linux-image-cloud-amd64,systemd-sysv,udev,dbus,grub-pc-bin,grub2-common,zstd,kmod,login,e2fsprogs"

// debian is a disk in the making.
type debian struct {
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
	return d.unshared(ctx, "", "debootstrap", "--variant=minbase", "--include="+debianPackages, debianSuite, d.tree, d.mirror)
}

type textFile struct {
	name string
	mode os.FileMode
	text string
}

// debianFiles are what an administrator would write.
func debianFiles() []textFile {
	return []textFile{
		{"etc/hostname", 0o644, DebianHostname + "\n"},
		{"etc/hosts", 0o644, "127.0.0.1 localhost\n127.0.1.1 " + DebianHostname + "\n"},
		{"etc/default/grub", 0o644, "GRUB_DEFAULT=0\nGRUB_TIMEOUT=1\nGRUB_DISTRIBUTOR=Debian\n" +
			"GRUB_CMDLINE_LINUX_DEFAULT=\"\"\nGRUB_CMDLINE_LINUX=\"console=ttyS0 " + vm.KernelArgs + "\"\nGRUB_TERMINAL=\"console serial\"\nGRUB_SERIAL_COMMAND=\"serial --speed=115200\"\n"},
		{"etc/fstab", 0o644, "UUID=" + rootUUID + " / ext4 errors=remount-ro 0 1\n" +
			"UUID=" + espUUID + " /boot/efi vfat umask=0077 0 1\nUUID=" + swapUUID + " none swap sw 0 0\n"},
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
grep -q "root=UUID=" /boot/grub/grub.cfg &&
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
	for _, f := range debianFiles() {
		if err := os.WriteFile(filepath.Join(d.tree, f.name), []byte(f.text), f.mode); err != nil {
			return err
		}
	}
	return d.unshared(ctx, DebianUser+":"+DebianPassword+"\n", "chroot", d.tree, "chpasswd")
}

// shrink removes what no test reads; the disk crosses the virtual network many
// times.
func (d *debian) shrink(ctx context.Context) error {
	_, err := proc.Run(ctx, proc.Command{Dir: d.tree, Args: []string{"sh", "-c", shrinkScript}})
	return err
}

// assemble makes the filesystems and puts them on the disk.
func (d *debian) assemble(ctx context.Context) error {
	d.log.Info("making filesystems")
	esp, swap, root := filepath.Join(d.work, "esp"), filepath.Join(d.work, "swap"), filepath.Join(d.work, "root")
	for path, size := range map[string]int64{esp: espSize, swap: swapSize, root: DebianRootSize} {
		if err := blank(path, size); err != nil {
			return err
		}
	}
	readme := filepath.Join(d.work, "readme.txt")
	if err := os.WriteFile(readme, []byte("the ESP of "+DebianHostname+"\n"), 0o644); err != nil {
		return err
	}
	err := runAll(ctx,
		[]string{"mkfs.vfat", "-F", "32", "-n", "ESP", "-i", strings.ReplaceAll(espUUID, "-", ""), esp},
		[]string{"mcopy", "-i", esp, readme, "::README.TXT"},
		[]string{"mkswap", "-q", "-U", swapUUID, swap},
		[]string{"mkfs.ext4", "-q", "-F", "-U", rootUUID, "-d", d.tree, root},
	)
	if err != nil {
		return err
	}
	part := func(n int) string { return fmt.Sprintf("64656269-616e-4000-8000-%012d", n) }
	return writeDisk(ctx, d.disk, DebianSize, part(0), []partition{
		{start: 1 * mib, size: 1 * mib, kind: "21686148-6449-6E6F-744E-656564454649", name: "bios", uuid: part(1)},
		{start: espStart, size: espSize, kind: "U", name: "esp", uuid: part(2), content: esp},
		{start: swapStart, size: swapSize, kind: "S", name: "swap", uuid: part(3), content: swap},
		{start: DebianRootStart, size: DebianRootSize, kind: "L", name: "root", uuid: part(4), content: root},
	})
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
		Kernel: kernel, Initrd: initrd, Append: "root=/dev/vda4 ro console=ttyS0 quiet " + vm.KernelArgs + " init=/" + finishPath,
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
