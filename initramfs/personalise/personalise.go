// Package personalise writes into an installed system what makes it one
// machine's own (bootserver/PERSONALISE.md). Every path is resolved inside that
// system.
package personalise

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"huck/imager/personal"
	"huck/initramfs/rootfs"
)

// maxRead bounds the files of the system that are read, in bytes: /etc/passwd
// of a site with a hundred thousand users.
const maxRead = 16 << 20

// System is an installed system whose filesystems are mounted; *installed.System
// is one.
type System struct {
	FS rootfs.FS
	// Writable is an error for a path whose file the running system would not
	// see; nil stands for none.
	Writable func(path string) error
}

// Apply makes a system what p says, and returns in a few words what it did.
func Apply(s System, p *personal.Personality) (string, error) {
	if s.Writable == nil {
		s.Writable = func(string) error { return nil }
	}
	a := &applier{System: s}
	for _, step := range []func(*personal.Personality) error{a.hostname, a.machineID, a.hostKeys, a.authorizedKeys, a.network, a.files, a.relabel} {
		if err := step(p); err != nil {
			return "", fmt.Errorf("personalise: %w", err)
		}
	}
	if len(a.done) == 0 {
		return "nothing to do", nil
	}
	return strings.Join(a.done, ", "), nil
}

type applier struct {
	System
	// users and groups are the system's, read when first needed.
	users  map[string]account
	groups map[string]int
	done   []string
}

func (a *applier) say(format string, args ...any) {
	a.done = append(a.done, fmt.Sprintf(format, args...))
}

// hostname sets the name, and the line that Debian gives it in /etc/hosts.
func (a *applier) hostname(p *personal.Personality) error {
	if p.Hostname == "" {
		return nil
	}
	short, _, _ := strings.Cut(p.Hostname, ".")
	if err := a.write(file{path: "/etc/hostname", content: short + "\n", mode: 0o644}); err != nil {
		return err
	}
	names := short
	if short != p.Hostname {
		names = p.Hostname + " " + short
	}
	old, err := a.read("/etc/hosts")
	if errors.Is(err, fs.ErrNotExist) {
		old, err = []byte("127.0.0.1 localhost\n::1 localhost\n"), nil
	}
	if err == nil {
		err = a.write(file{path: "/etc/hosts", content: hosts(string(old), names), mode: 0o644})
	}
	a.say("hostname %s", short)
	return err
}

// hosts gives the names to 127.0.1.1: in the place of its present line, else
// after that of 127.0.0.1.
func hosts(old, names string) string {
	const own = "127.0.1.1"
	var lines []string
	at := -1
	for line := range strings.Lines(old) {
		f := strings.Fields(line)
		if len(f) > 0 && f[0] == own {
			if at < 0 {
				at = len(lines)
				lines = append(lines, "")
			}
			continue
		}
		lines = append(lines, strings.TrimSuffix(line, "\n"))
	}
	if at < 0 {
		at = 1 + slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "127.0.0.1") })
		lines = slices.Insert(lines, at, "")
	}
	lines[at] = own + " " + names
	return strings.Join(lines, "\n") + "\n"
}

// Where a machine ID stands (machine-id(5)), and what keeps the names of boot
// entries from following it (kernel-install(8)).
const (
	idFile     = "/etc/machine-id"
	dbusIDFile = "/var/lib/dbus/machine-id"
	tokenFile  = "/etc/kernel/entry-token"
)

func (a *applier) machineID(p *personal.Personality) error {
	if p.MachineID == nil {
		return nil
	}
	old, err := a.read(idFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := a.keepToken(strings.TrimSpace(string(old))); err != nil {
		return err
	}
	id := *p.MachineID
	if id != "" {
		id += "\n"
	}
	if err := a.write(file{path: idFile, content: id, mode: 0o444}); err != nil {
		return err
	}
	// A link there leads to the other; a file would keep the image's ID.
	if info, err := a.FS.Root.Lstat(dbusIDFile[1:]); err == nil && info.Mode().IsRegular() {
		if id == personal.MachineUninitialized+"\n" {
			id = "" // systemd's word only
		}
		if err := a.write(file{path: dbusIDFile, content: id, mode: 0o444}); err != nil {
			return err
		}
	}
	a.say("machine ID %s", strings.TrimSpace(id))
	return nil
}

// keepToken lets boot entries that are named by the old ID be found, and
// replaced, by the next update of the kernel.
func (a *applier) keepToken(old string) error {
	if len(old) != 32 {
		return nil
	}
	used := false
	for _, dir := range []string{"boot", "efi", "boot/efi"} {
		if _, err := fs.Stat(a.FS, path.Join(dir, old)); err == nil {
			used = true
		}
		list, err := fs.ReadDir(a.FS, path.Join(dir, "loader/entries"))
		used = used || err == nil && slices.ContainsFunc(list, func(e fs.DirEntry) bool { return strings.HasPrefix(e.Name(), old) })
	}
	if _, err := fs.Stat(a.FS, tokenFile[1:]); !used || err == nil {
		return nil
	}
	return a.write(file{path: tokenFile, content: old + "\n", mode: 0o644})
}

// hostKeys removes the image's keys; the machine's own are among the files.
func (a *applier) hostKeys(p *personal.Personality) error {
	if !p.ResetHostKeys {
		return nil
	}
	dir, err := a.FS.Place("etc/ssh")
	if err != nil {
		return err
	}
	list, err := fs.ReadDir(a.FS, dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	removed := 0
	for _, e := range list {
		if name := e.Name(); strings.HasPrefix(name, "ssh_host_") && strings.Contains(name, "_key") {
			if err := a.FS.Root.Remove(path.Join(dir, name)); err != nil {
				return err
			}
			removed++
		}
	}
	a.say("%d files of SSH host keys removed", removed)
	return nil
}

func (a *applier) authorizedKeys(p *personal.Personality) error {
	for _, name := range slices.Sorted(maps.Keys(p.AuthorizedKeys)) {
		u, err := a.user(name)
		if err != nil {
			return err
		}
		dir := path.Join(u.home, ".ssh")
		if err := a.folder(dir, u.uid, u.gid); err != nil {
			return err
		}
		keys := strings.Join(p.AuthorizedKeys[name], "\n") + "\n"
		if err := a.write(file{path: dir + "/authorized_keys", content: keys, mode: 0o600, uid: u.uid, gid: u.gid}); err != nil {
			return err
		}
		a.say("%d keys of %s", len(p.AuthorizedKeys[name]), name)
	}
	return nil
}

// folder makes a private folder with this owner, or makes the one that is there
// private: sshd takes no keys from one that others may write to.
func (a *applier) folder(name string, uid, gid int) error {
	place, err := a.FS.Place(name[1:])
	if err == nil {
		err = a.Writable("/" + place)
	}
	if err == nil {
		err = a.FS.Root.MkdirAll(place, 0o755)
	}
	if err == nil {
		err = a.FS.Root.Lchown(place, uid, gid)
	}
	if err == nil {
		err = a.FS.Root.Chmod(place, 0o700)
	}
	return err
}

func (a *applier) files(p *personal.Personality) error {
	for _, f := range p.Files {
		mode, err := f.Permissions()
		if err != nil {
			return err
		}
		w := file{path: f.Path, content: f.Content, mode: fileMode(mode)}
		if w.uid, w.gid, err = a.owner(f.Owner, f.Group); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
		if err := a.write(w); err != nil {
			return err
		}
	}
	if len(p.Files) > 0 {
		a.say("%d files", len(p.Files))
	}
	return nil
}

// relabel has the system give its new files their SELinux labels at its first
// boot (selinux(8)).
func (a *applier) relabel(p *personal.Personality) error {
	b, err := a.read("/etc/selinux/config")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "SELINUX="); ok && strings.TrimSpace(v) != "disabled" {
			if !p.Changes() {
				return nil
			}
			a.say("SELinux will relabel")
			return a.write(file{path: "/.autorelabel", mode: 0o644})
		}
	}
	return nil
}

func (a *applier) read(name string) ([]byte, error) {
	info, err := fs.Stat(a.FS, name[1:])
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxRead {
		return nil, fmt.Errorf("%s is no file, or has more than %d bytes", name, maxRead)
	}
	return fs.ReadFile(a.FS, name[1:])
}

// file is one to write.
type file struct {
	path, content string
	mode          fs.FileMode
	uid, gid      int
}

// write puts a file where its path leads inside the system, in one step, so
// that hard links of the image's file keep what they have.
func (a *applier) write(f file) (err error) {
	place, err := a.FS.Place(f.path[1:])
	if err == nil {
		err = a.Writable("/" + place)
	}
	if err != nil {
		return err
	}
	if info, err := a.FS.Root.Lstat(place); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is %v in the installed system, and no file", f.path, info.Mode().Type())
	}
	if err := a.FS.Root.MkdirAll(path.Dir(place), 0o755); err != nil {
		return err
	}
	temp := path.Join(path.Dir(place), ".huck-"+rand.Text())
	out, err := a.FS.Root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = out.WriteString(f.content)
	if err == nil {
		err = out.Chown(f.uid, f.gid)
	}
	if err == nil {
		err = out.Chmod(f.mode) // after the owner: chown clears the set-ID bits
	}
	if err = errors.Join(err, out.Close()); err == nil {
		err = a.FS.Root.Rename(temp, place)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", f.path, err), a.FS.Root.Remove(temp))
	}
	return nil
}

// fileMode makes a mode of chmod(2) Go's.
func fileMode(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	for bit, f := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&bit != 0 {
			mode |= f
		}
	}
	return mode
}
