package bootos_test

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"huck/initramfs/bootos"
)

const debianUUID = "6f3c1a52-0b7e-4a63-9d1b-2a7f5c0e9d11"

// tree makes a volume of files; those without content are just there.
func tree(partition int, uuid string, files ...string) bootos.Volume {
	fsys := fstest.MapFS{}
	for _, f := range files {
		name, text, _ := strings.Cut(f, "\x00")
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return bootos.Volume{Partition: partition, UUID: uuid, FS: fsys}
}

func file(name, text string) string { return name + "\x00" + text }

// debian is a disk with an ESP and a root, as an installer leaves it.
func debian(t *testing.T, def string, more ...string) []bootos.Volume {
	b, err := os.ReadFile("testdata/debian.cfg")
	if err != nil {
		t.Fatal(err)
	}
	cfg := strings.Replace(string(b), "DEFAULT", def, 1)
	files := append([]string{file("boot/grub/grub.cfg", cfg), "boot/vmlinuz-13", "boot/initrd.img-13", "boot/vmlinuz-9"}, more...)
	return []bootos.Volume{
		tree(1, "1234-abcd", file("EFI/debian/grub.cfg", "search.fs_uuid "+debianUUID+" root hd0,gpt2\nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n")),
		tree(2, debianUUID, files...),
	}
}

func TestDebianGRUB(t *testing.T) {
	const uuid = "root=UUID=" + debianUUID
	for _, tt := range []struct {
		name, def string
		more      []string
		title     string
		kernel    string
		initrds   int
		cmdline   string
	}{
		{name: "first", def: "0", title: "Golden GNU/Linux", kernel: "boot/vmlinuz-13", initrds: 1,
			cmdline: uuid + ` ro console=ttyS0,115200 "dyndbg=file drivers/x.c +p" quiet`},
		{name: "a title", def: "Golden GNU/Linux", title: "Golden GNU/Linux", kernel: "boot/vmlinuz-13", initrds: 1,
			cmdline: uuid + ` ro console=ttyS0,115200 "dyndbg=file drivers/x.c +p" quiet`},
		{name: "numbers in a submenu", def: "1>1", title: "Golden GNU/Linux, with Linux 13 (recovery mode)", kernel: "boot/vmlinuz-13", initrds: 1, cmdline: uuid + " ro single"},
		{name: "IDs in a submenu, no initrd", def: "advanced-6f3c>9-advanced", title: "Golden GNU/Linux, with Linux 9", kernel: "boot/vmlinuz-9", cmdline: "root=/dev/vda2 ro"},
		{name: "a submenu alone", def: "1", title: "Golden GNU/Linux, with Linux 13", kernel: "boot/vmlinuz-13", initrds: 1, cmdline: uuid + " ro advanced"},
		{name: "not there", def: "7", title: "Golden GNU/Linux", kernel: "boot/vmlinuz-13", initrds: 1,
			cmdline: uuid + ` ro console=ttyS0,115200 "dyndbg=file drivers/x.c +p" quiet`},
		{name: "saved", def: "${saved_entry}", more: []string{file("boot/grub/grubenv", "# GRUB Environment Block\nsaved_entry=1>2\nnext_entry=1>1\n####")},
			title: "Golden GNU/Linux, with Linux 9", kernel: "boot/vmlinuz-9", cmdline: "root=/dev/vda2 ro"},
		{name: "saved, but nothing is", def: "${saved_entry}", title: "Golden GNU/Linux", kernel: "boot/vmlinuz-13", initrds: 1,
			cmdline: uuid + ` ro console=ttyS0,115200 "dyndbg=file drivers/x.c +p" quiet`},
		{name: "custom.cfg", def: "mine", more: []string{file("boot/grub/custom.cfg", "menuentry Mine --id mine {\nlinux (hd0,gpt2)/boot/vmlinuz-9 mine\n}\n")},
			title: "Mine", kernel: "boot/vmlinuz-9", cmdline: "mine"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, err := bootos.Find(debian(t, tt.def, tt.more...))
			if err != nil {
				t.Fatal(err)
			}
			if e.Title != tt.title || e.Kernel != (bootos.File{Volume: 1, Path: tt.kernel}) || len(e.Initrds) != tt.initrds || e.Cmdline != tt.cmdline {
				t.Errorf("got %+v", e)
			}
		})
	}
}

// TestOtherDisk: a root of the same name on another disk is never found, for
// only this disk is looked at; what it lacks is an error.
func TestGRUBErrors(t *testing.T) {
	for _, tt := range []struct {
		name, cfg, err string
	}{
		{"other system", "set default=0\nmenuentry W { chainloader +1\n}", "something else than Linux"},
		{"kernel missing", "menuentry L {\nlinux /vmlinuz-none\n}", "not exist"},
		{"root on another disk", "menuentry L {\nset root=lvm/vg-root\nlinux /vmlinuz\n}", "no such volume"},
		{"empty menu", "set timeout=5", "menu is empty"},
		{"unbalanced", "if [ x = x ]; then", "syntax error"},
		{"quote", "echo 'x", "syntax error"},
		{"stray", "fi", "unexpected fi"},
		{"no block", "menuentry L", "without a block"},
		{"endless", "while true; do set x=1; done", "without end"},
		{"itself", "configfile /boot/grub/grub.cfg", "call each other"},
		{"own function", "function f {\nf\n}\nf", "call each other"},
		{"growth", "set a=xxxxxxxxxxxxxxxx\nfor i in 1 2 3 4 5 6 7 8 9 1 2 3 4 5 6 7 8 9; do set a=\"$a$a$a$a\"; done", "menu is empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := bootos.Find([]bootos.Volume{tree(1, "u", file("boot/grub/grub.cfg", tt.cfg), "vmlinuz")})
			if !errors.Is(err, bootos.ErrNoSystem) || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

func TestGRUBLanguage(t *testing.T) {
	for _, tt := range []struct{ name, cfg, want string }{
		{"single and double quotes", `linux /k 'a b' "c $x d" e\ f`, `"a b" "c  d" "e f"`},
		{"escapes for the kernel", `linux /k a=\"x\" '\x20y'`, `a=\"x\" \x20y`},
		{"empty variables vanish, quoted ones stay", "set e=\nlinux /k $e \"$e\" x$e", " x"},
		{"variables split", "set v='a b'\nlinux /k x$v $v", "xa b a b"},
		{"elif", "if false; then linux /k 1; elif true; then linux /k 2; else linux /k 3; fi", "2"},
		{"test", `if [ ! -e /none -a ( 5 -gt 4 ) -a "a" != "b" ]; then linux /k yes; fi`, "yes"},
		{"until and for", "set n=0\nfor i in 1 2 3; do set n=$n$i; done\nuntil [ $n = 0123 ]; do set n=0123; done\nlinux /k n=$n", "n=0123"},
		{"function with arguments", "function f {\nlinux /k $1 $#\n}\nf a b", "a 2"},
		{"continued line", "linux /k a \\\n b", "a b"},
		{"search by label and file", "search --label --set=x data\nsearch -f -s y /k\nlinux ($y)/k x=$x y=$y", "x=hd0,2 y=hd0,1"},
		{"search that fails keeps root", "search --fs-uuid --set=root 0000\nlinux /k kept", "kept"},
		{"parameters of an entry", "menuentry A arg {\nlinux /k $1 $2\n}", "A arg"},
		{"comment", "linux /k a#b # c", "a#b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data := tree(2, "u2", "x")
			data.Label = "data"
			e, err := bootos.Find([]bootos.Volume{tree(1, "u", file("grub/grub.cfg", tt.cfg), "k"), data})
			if err != nil {
				t.Fatal(err)
			}
			if e.Cmdline != tt.want {
				t.Errorf("command line %q, want %q", e.Cmdline, tt.want)
			}
		})
	}
}

func entry(name, linux, more string) string {
	return file("loader/entries/"+name, "title T\nlinux "+linux+"\n"+more)
}

func TestBLS(t *testing.T) {
	for _, tt := range []struct {
		name    string
		files   []string
		kernel  string
		initrds []string
		cmdline string
		err     string
	}{
		{name: "newest version by numbers", files: []string{entry("a-6.9.conf", "/k9", "version 6.9"), entry("a-6.10.conf", "/k10", "version 6.10\noptions root=x ro\n")}, kernel: "k10", cmdline: "root=x ro"},
		{name: "options and initrds add up", files: []string{entry("a.conf", "/k9", "options a b\n#options c\noptions d\ninitrd /i1\ninitrd\t/i2\n")}, kernel: "k9", initrds: []string{"i1", "i2"}, cmdline: "a b d"},
		{name: "loader.conf", files: []string{entry("a-1.conf", "/k9", ""), entry("a-2.conf", "/k10", ""), file("loader/loader.conf", "timeout 3\ndefault a-1*\n")}, kernel: "k9"},
		{name: "saved_entry", files: []string{entry("a-1.conf", "/k9", ""), entry("a-2.conf", "/k10", ""), file("grub2/grubenv", "saved_entry=a-1\n")}, kernel: "k9"},
		{name: "no tries left", files: []string{entry("a-2+0-3.conf", "/k9", ""), entry("a-1+2.conf", "/k10", "")}, kernel: "k10"},
		{name: "sort-key first", files: []string{entry("a.conf", "/k9", "sort-key x\nversion 1"), entry("b.conf", "/k10", "version 2")}, kernel: "k9"},
		{name: "GRUB's variables", files: []string{entry("a.conf", "/k9", "options $kernelopts ro $tuned_params\ninitrd /i1 $tuned_initrd"), file("grub2/grubenv", "kernelopts=root=UUID=1 x=\"y\"\n")},
			kernel: "k9", initrds: []string{"i1"}, cmdline: `root=UUID=1 x="y" ro`},
		{name: "unknown variable", files: []string{entry("a.conf", "/k9", "options $kernelopts ro")}, err: "$kernelopts is set nowhere"},
		{name: "kernel missing", files: []string{entry("a.conf", "/none", "")}, err: "not exist"},
		{name: "no way out", files: []string{entry("a.conf", "/../../k9", "")}, kernel: "k9"},
		{name: "EFI program only", files: []string{file("loader/entries/a.conf", "title T\nefi /x.efi\n")}, err: "no boot loader entries"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := tree(1, "u", append(tt.files, "k9", "k10", "i1", "i2")...)
			e, err := bootos.Find([]bootos.Volume{v})
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var initrds []string
			for _, i := range e.Initrds {
				initrds = append(initrds, i.Path)
			}
			if e.Kernel.Path != tt.kernel || e.Cmdline != tt.cmdline || !slices.Equal(initrds, tt.initrds) {
				t.Errorf("got %+v", e)
			}
		})
	}
}

// TestBLSBeforeGRUB: entries that do not work leave grub.cfg its chance.
func TestBLSBeforeGRUB(t *testing.T) {
	grub := file("boot/grub/grub.cfg", "menuentry G {\nlinux /k g\n}")
	e, err := bootos.Find([]bootos.Volume{tree(1, "u", grub, "k", entry("a.conf", "/k", "options bls"))})
	if err != nil || e.Cmdline != "bls" {
		t.Errorf("got %+v, %v", e, err)
	}
	e, err = bootos.Find([]bootos.Volume{tree(1, "u", grub, "k", entry("a.conf", "/none", "options bls"))})
	if err != nil || e.Cmdline != "g" {
		t.Errorf("got %+v, %v", e, err)
	}
}

func TestNoSystem(t *testing.T) {
	for _, volumes := range [][]bootos.Volume{nil, {tree(1, "u", "data")}} {
		if _, err := bootos.Find(volumes); !errors.Is(err, bootos.ErrNoSystem) {
			t.Errorf("error %v", err)
		}
	}
}

// FuzzFind: no configuration on a disk makes us crash, hang, or name a file
// that is not on it.
func FuzzFind(f *testing.F) {
	b, err := os.ReadFile("testdata/debian.cfg")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(b), "title T\nlinux /none\n", "saved_entry=1>0\n")
	f.Add("menuentry L {\nlinux /k $a ${b} 'c' \"d\\\"\"\ninitrd /k /k\n}", "linux /k\noptions $kernelopts\n", "kernelopts=x\n")
	f.Add("function f { linux /k $1; }\nfor i in a b; do f $i; done\nwhile false; do true; done", "", "")
	f.Fuzz(func(t *testing.T, cfg, bls, env string) {
		v := tree(2, debianUUID, file("boot/grub/grub.cfg", cfg), file("loader/entries/x.conf", bls), file("boot/grub/grubenv", env), "k", "boot/vmlinuz-13", "boot/initrd.img-13")
		e, err := bootos.Find([]bootos.Volume{v})
		if err != nil {
			return
		}
		for _, f := range append(e.Initrds, e.Kernel) {
			if _, err := fs.Stat(v.FS, f.Path); err != nil {
				t.Errorf("%+v: %v", e, err)
			}
		}
		if strings.ContainsAny(e.Cmdline, "\x00") {
			t.Skip("a NUL: the kernel cuts there")
		}
	})
}
