// Package medium makes the file that is a USB stick and a CD in one, for BIOS and UEFI: an ISO 9660 filesystem with
// kernel and initramfs for isolinux, a FAT filesystem with the unified kernel image for UEFI, and the boot code and
// partition tables that a stick needs. Firmware finds each where it looks for it (El Torito for CDs, MBR and GPT for
// disks), so the file is burnt, attached to a BMC, or written to a stick as it is:
//
//	/isolinux/                      BIOS: the boot loader and its menu without choice
//	/boot/vmlinuz, /boot/initramfs  what it starts
//	/boot/efi.img                   UEFI: FAT with EFI/BOOT/BOOTX64.EFI, the unified kernel image
//	/huck/assignment.json           api.Assignment: what to do without a server, if anything
//	/huck/images/                   the store with the image for it
//
// The appliance knows the medium it came from by the volume's name, which is on its kernel command line (api.Medium).
package medium

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/zeebo/blake3"

	"huck/build/output"
	"huck/build/uki"
	"huck/imager/api"
	"huck/imager/archive"
	"huck/imager/image"
	"huck/imager/store"
)

// Options say what goes onto the medium.
type Options struct {
	UKI    uki.Options    // but its command line, initramfs and place, which are the medium's
	Append string         // words for the kernel command line
	Tools  string         // an initramfs to lay over the appliance's, or ""
	Image  string         // what to install: whatever `imager import` takes, or "" for none
	Assign api.Assignment // disk and what then
	// Unattended leaves a person's word out.
	Unattended bool
	ISOLINUX   string // folder of Debian's package isolinux
	SYSLINUX   string // folder of syslinux's modules for BIOS
	Out        string
	Log        func(format string, args ...any)
}

// Where things are on the medium.
const (
	kernelPath    = "boot/vmlinuz"
	initramfsPath = "boot/initramfs"
	efiPath       = "boot/efi.img"
)

// Write makes the medium.
func Write(ctx context.Context, o Options) error {
	if err := checkTools(); err != nil {
		return err
	}
	temp, err := os.MkdirTemp("", "huck-medium-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	m := &maker{Options: o, temp: temp, tree: filepath.Join(temp, "tree")}
	for _, do := range []func(context.Context) error{m.image, m.system, m.bios, m.uefi} {
		if err := do(ctx); err != nil {
			return err
		}
	}
	o.Log("volume %s", m.id)
	return m.iso(ctx)
}

// tools are what is run, and Debian's packages they are in.
func checkTools() error {
	var missing []string
	for _, tool := range []string{"xorriso", "mformat", "mmd", "mcopy"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if missing != nil {
		return fmt.Errorf("not installed: %s: `build/bootstrap.sh netboot` installs what a medium needs", strings.Join(missing, ", "))
	}
	return nil
}

type maker struct {
	Options
	temp, tree string
	id         string // the volume's name
	line       string // the kernel command line
}

func (m *maker) path(name string) string { return filepath.Join(m.tree, filepath.FromSlash(name)) }

// image puts the image into a store on the medium, and says what to do with it.
func (m *maker) image(ctx context.Context) error {
	if m.Image == "" {
		return nil
	}
	name := strings.TrimSuffix(filepath.Base(m.Image), filepath.Ext(m.Image))
	if image.CheckName(name) != nil {
		name = "image"
	}
	a := m.Assign
	a.Action, a.Ref, a.Confirm = api.ActionInstall, name, !m.Unattended
	if err := a.CheckInstall(); err != nil { // before the image is read
		return err
	}
	dir := m.path(api.MediumImages)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	st, err := store.Open(dir, store.Options{Create: true})
	if err != nil {
		return err
	}
	r, err := archive.Import(ctx, m.Image, archive.ImportConfig{Store: st, Name: name, TempDir: m.temp})
	if err != nil {
		return err
	}
	a.Ref = r.Ref
	text, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	asked := "once a person has confirmed it"
	if m.Unattended {
		asked = "WITHOUT ASKING"
	}
	m.Log("image %s, %d bytes; it is put on disk %s %s, then %s", a.Ref, r.ImageBytes, a.Disk, asked, a.Then)
	return output.WriteString(m.path(api.MediumAssignment), string(text)+"\n")
}

// system puts kernel and initramfs in place. The volume's name comes from all that makes one medium unlike another.
func (m *maker) system(context.Context) error {
	if err := output.Copy(m.path(kernelPath), m.UKI.Kernel); err != nil {
		return err
	}
	parts := []string{m.UKI.Initramfs}
	if m.Tools != "" {
		parts = append(parts, m.Tools)
	}
	if err := output.Write(m.path(initramfsPath), func(w io.Writer) error { return concatenate(w, parts) }); err != nil {
		return err
	}
	h := blake3.New()
	_, _ = io.WriteString(h, m.Append) // a hash takes everything
	what := []string{m.path(kernelPath), m.path(initramfsPath)}
	if m.Image != "" {
		what = append(what, m.path(api.MediumAssignment))
	}
	if err := concatenate(h, what); err != nil {
		return err
	}
	m.id = api.MediumPrefix + strings.ToUpper(hex.EncodeToString(h.Sum(nil)[:8]))
	m.line = strings.TrimSpace(m.UKI.CommandLine + " huck.medium=" + m.id + " " + m.Append)
	return nil
}

func concatenate(w io.Writer, files []string) error {
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		_, err = io.Copy(w, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("copy %s: %w", name, err)
		}
	}
	return nil
}

// bios puts isolinux in place. It speaks on the serial line, too.
func (m *maker) bios(context.Context) error {
	const missing = "%w: `build/bootstrap.sh netboot` installs it"
	for name, from := range map[string]string{"isolinux.bin": m.ISOLINUX, "ldlinux.c32": m.SYSLINUX} {
		if err := output.Copy(m.path("isolinux/"+name), filepath.Join(from, name)); err != nil {
			return fmt.Errorf(missing, err)
		}
	}
	return output.WriteString(m.path("isolinux/isolinux.cfg"), fmt.Sprintf(
		"serial 0 115200\nsay Huck: starting the appliance\ndefault huck\nlabel huck\n  kernel /%s\n  initrd /%s\n  append %s\n",
		kernelPath, initramfsPath, m.line))
}

// uefi makes the FAT filesystem, of the size it takes: mtools needs no root.
func (m *maker) uefi(ctx context.Context) error {
	u := m.UKI
	u.Initramfs, u.CommandLine, u.Out = m.path(initramfsPath), m.line, filepath.Join(m.temp, "bootx64.efi")
	if err := uki.Write(ctx, u); err != nil {
		return err
	}
	info, err := os.Stat(u.Out)
	if err != nil {
		return err
	}
	fat := m.path(efiPath)
	const mib = 1 << 20
	size := (info.Size()/mib + 2) * mib // 1 to 2 MiB for the filesystem's own
	if err := errors.Join(os.WriteFile(fat, nil, 0o644), os.Truncate(fat, size)); err != nil {
		return err
	}
	// The serial number would be the time.
	return run(ctx,
		[]string{"mformat", "-i", fat, "-T", fmt.Sprint(size / 512), "-h", "64", "-s", "32", "-N", "4855434b", "-v", "HUCK", "::"},
		[]string{"mmd", "-i", fat, "::/EFI", "::/EFI/BOOT"},
		[]string{"mcopy", "-i", fat, u.Out, "::/EFI/BOOT/BOOTX64.EFI"})
}

// iso makes the filesystem and lays the boot code over it. Rock Ridge keeps the names as they are, level 3 takes files of
// any size.
func (m *maker) iso(ctx context.Context) error {
	temp := filepath.Join(m.temp, "iso")
	err := run(ctx, []string{"xorriso", "-as", "mkisofs", "-quiet", "-o", temp, "-V", m.id, "-iso-level", "3", "-r",
		"-isohybrid-mbr", filepath.Join(m.ISOLINUX, "isohdpfx.bin"),
		"-c", "isolinux/boot.cat", "-b", "isolinux/isolinux.bin", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table",
		"-eltorito-alt-boot", "-e", efiPath, "-no-emul-boot", "-isohybrid-gpt-basdat",
		m.tree})
	if err != nil {
		return err
	}
	return output.Copy(m.Out, temp)
}

func run(ctx context.Context, commands ...[]string) error {
	for _, c := range commands {
		if text, err := exec.CommandContext(ctx, c[0], c[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", c[0], err, text)
		}
	}
	return nil
}
