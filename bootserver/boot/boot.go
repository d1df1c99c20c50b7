// Package boot decides what a machine without a system is given to boot: the
// file names by firmware, the iPXE script, and read access to the netboot
// folder that TFTP and HTTP share. BOOTING.md beside the program tells the
// whole way.
package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"strings"
	"unicode"
)

// Files of the netboot folder, as `go run ./build` writes them.
const (
	Kernel    = "vmlinuz"
	Initramfs = "initramfs.cpio.zst"
	// BIOSLoader is iPXE on top of the ROM's own driver, for BIOS PXE.
	BIOSLoader = "undionly.kpxe"
	// UKI is kernel, initramfs and command line as one UEFI program.
	UKI = "huck.efi"
	// UEFILoader is iPXE on top of the firmware's driver, for UEFI where there
	// is no UKI.
	UEFILoader = "snponly.efi"
)

// PathBoot is where HTTP serves the netboot folder, PathScript the iPXE script.
const (
	PathBoot   = "/boot/"
	PathScript = "/boot/ipxe"
)

// Folder is a netboot folder. It may be replaced while we run: each file is
// looked up anew.
type Folder string

// ErrName is wrapped when a name leads out of the folder or to something that
// is not a regular file.
var ErrName = errors.New("not a file of the netboot folder")

// Open opens the regular file name, in which backslashes count as slashes and
// a leading one is ignored (both are seen in PXE requests). Nothing outside
// the folder can be reached, not through symbolic links either.
func (f Folder) Open(name string) (*os.File, fs.FileInfo, error) {
	clean := strings.TrimLeft(strings.ReplaceAll(name, `\`, "/"), "/")
	if !fs.ValidPath(clean) || clean == "." {
		return nil, nil, fmt.Errorf("boot: %.120q: %w", name, ErrName)
	}
	root, err := os.OpenRoot(string(f))
	if err != nil {
		return nil, nil, fmt.Errorf("boot: %w", err)
	}
	defer root.Close()
	// Stat first: opening a named pipe would block.
	info, err := root.Stat(clean)
	if err != nil {
		return nil, nil, fmt.Errorf("boot: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("boot: %.120q: %w", name, ErrName)
	}
	file, err := root.Open(clean)
	if err != nil {
		return nil, nil, fmt.Errorf("boot: %w", err)
	}
	if info, err = file.Stat(); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("boot: %w", err), file.Close())
	}
	return file, info, nil
}

// Missing returns which of the names are not there.
func (f Folder) Missing(names ...string) []string {
	var missing []string
	for _, n := range names {
		if info, err := os.Stat(path.Join(string(f), n)); err != nil || !info.Mode().IsRegular() {
			missing = append(missing, n)
		}
	}
	return missing
}

// Architectures of RFC 4578 section 2.1 and its registry that we have a loader
// for. Firmware in the field sends 7 and 9 for x86-64 alike; 16 is x86-64 that
// loads by HTTP.
const (
	archBIOS     = 0
	archUEFI     = 7
	archUEFIBC   = 9
	archUEFIHTTP = 16
)

// Loaders names the files that firmware of the given architecture can start,
// best first; none if we have nothing for it.
func Loaders(arch uint16) []string {
	switch arch {
	case archBIOS:
		return []string{BIOSLoader}
	case archUEFI, archUEFIBC, archUEFIHTTP:
		return []string{UKI, UEFILoader}
	}
	return nil
}

// First returns the first of the names that the folder has, else "".
func (f Folder) First(names ...string) string {
	for _, n := range names {
		if len(f.Missing(n)) == 0 {
			return n
		}
	}
	return ""
}

// ScriptURL is the boot file for an iPXE client of the given hardware address.
func ScriptURL(server *url.URL, mac string) string {
	u := server.JoinPath(PathScript)
	u.RawQuery = url.Values{"mac": {strings.ReplaceAll(mac, ":", "-")}}.Encode()
	return u.String()
}

// CheckAppend refuses words for the kernel command line that would be read as
// something else by iPXE: it splits lines, and it knows ||, && and ${}.
func CheckAppend(s string) error {
	if i := strings.IndexFunc(s, unicode.IsControl); i >= 0 {
		return fmt.Errorf("boot: kernel command line %q has the control character %q", s, s[i])
	}
	for _, bad := range []string{"||", "&&", "${"} {
		if strings.Contains(s, bad) {
			return fmt.Errorf("boot: kernel command line %q: iPXE would interpret %s", s, bad)
		}
	}
	return nil
}

// Consoles is the part of the kernel command line that makes the appliance
// speak on the screen and on the first serial port.
const Consoles = "console=tty0 console=ttyS0,115200"

// Script is the iPXE script that starts the appliance. extra is appended to
// the kernel command line; CheckAppend must have passed it.
//
// BOOTIF has the form of PXELINUX: the hardware type, then the address of the
// card that iPXE booted from. The attempts give a server that is just being
// restarted a minute; then the machine starts over, with a new lease.
func Script(server *url.URL, extra string) string {
	base := strings.TrimSuffix(server.JoinPath(PathBoot).String(), "/")
	args := strings.TrimSpace("initrd=" + Initramfs + " huck.server=" + server.String() + " BOOTIF=01-${netX/mac:hexhyp} " + Consoles + " " + extra)
	return fmt.Sprintf(`#!ipxe
set attempt:int32 0
:start
echo Huck: starting the appliance from %[1]s
kernel %[1]s/%[2]s %[3]s || goto failed
initrd %[1]s/%[4]s || goto failed
boot || goto failed
:failed
inc attempt
iseq ${attempt} 12 && goto over ||
echo Huck: attempt ${attempt} failed, next in 5 s
imgfree
sleep 5
goto start
:over
echo Huck: giving up, rebooting
sleep 5
reboot
`, base, Kernel, args, Initramfs)
}

// OwnDiskScript is the iPXE script that leaves a machine to its own disk. A BIOS
// is told which disk; many do not go on to the next entry when a boot ROM ends.
// UEFI goes on where a boot entry ends with an error: after one that ends well
// it shows its menu (UEFI specification, section 3.1.1).
const OwnDiskScript = `#!ipxe
echo Huck: nothing to do, starting the system on the disk
iseq ${platform} pcbios && sanboot --no-describe --drive 0x80 ||
exit 1
`
