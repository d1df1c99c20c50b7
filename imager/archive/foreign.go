package archive

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"huck/imager/decompress"
	"huck/imager/image"
)

// A format is what a file was found to be. Those of virtual machines have the
// name that qemu-img gives them.
type format string

const (
	formatHuck  format = "huck"
	formatRaw   format = "raw"
	formatQCOW2 format = "qcow2"
	formatVMDK  format = "vmdk"
	formatVHD   format = "vpc"
	formatVHDX  format = "vhdx"
)

const (
	vhdFooter = 512
	// vmdkDescriptor is where qemu-img looks for a sparse VMDK's own
	// description, and how much of it.
	vmdkDescriptor     = 512
	vmdkDescriptorSize = 20 * 512
)

// signatures tell files by their first bytes. What has a why is not imported.
var signatures = []struct {
	at     int
	bytes  string
	format format
	why    string
}{
	{0, magic[:7], formatHuck, ""},
	{0, "QFI\xfb", formatQCOW2, ""},
	{0, "KDMV", formatVMDK, ""},
	{0, "conectix", formatVHD, ""},
	{0, "vhdxfile", formatVHDX, ""},
	{0, "# Disk DescriptorFile", "", "it only describes a VMDK of several files: import the -flat.vmdk file if there is one, or join them with qemu-img convert -O qcow2"},
	{0, "COWD", "", "a VMDK of the old ESX kind: convert it with qemu-img convert -O qcow2"},
	{64, "\x7f\x10\xda\xbe", "", "it is a VirtualBox disk: convert it with qemu-img convert -f vdi -O qcow2"},
	{0, "partclone-image", "", "it is an image of partclone: import makes an image of it"},
	{0, "PK\x03\x04", "", "it is a zip archive: take the disk out of it"},
	{257, "ustar", "", "it is a tar archive: take the disk out of it"},
}

// detect tells what a file is by its content. Whatever is not known is a raw
// disk. The error is a *Refused for what is known and not imported.
func detect(name string, r io.ReaderAt, size int64) (format, error) {
	b := make([]byte, 512)
	n, err := r.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("archive: %s: %w", name, err)
	}
	if kind := decompress.Kind(b[:n]); kind != "" {
		return "", &Refused{Device: name, Why: "it is compressed: unpack it with " + kind + " -d"}
	}
	for _, s := range signatures {
		if n < s.at || !bytes.HasPrefix(b[s.at:n], []byte(s.bytes)) {
			continue
		}
		if s.why != "" {
			return "", &Refused{Device: name, Why: s.why}
		}
		return s.format, nil
	}
	if size < vhdFooter {
		return formatRaw, nil
	}
	// A VHD of fixed size is a raw disk with a footer.
	if _, err := r.ReadAt(b, size-vhdFooter); err != nil {
		return "", fmt.Errorf("archive: %s: %w", name, err)
	}
	if bytes.HasPrefix(b, []byte("conectix")) {
		return formatVHD, nil
	}
	return formatRaw, nil
}

// CheckRaw refuses a file that is there and is no raw disk but, by its content, one
// in another program's format, an archive or compressed: to take it for a disk
// would be to read, or to destroy, what holds one.
func CheckRaw(file string) error {
	st, err := os.Stat(file)
	if err != nil || !st.Mode().IsRegular() {
		return nil // not there, or a device; who opens it tells
	}
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	defer f.Close() // opened for reading
	switch kind, err := detect(file, f, st.Size()); {
	case err != nil:
		return err
	case kind != formatRaw:
		return &Refused{Device: file, Why: fmt.Sprintf("it is no raw disk but a file in the format %s: import makes an image of it, export --format qcow2 such a file of an image", kind)}
	}
	return nil
}

// checkAlone refuses a disk that is not all in its own file, before any other
// program opens it: its header could name any file of this machine, and that
// would become a part of the image. (The formats' documents: QEMU's
// docs/interop/qcow2.txt; Virtual Disk Format 5.0, VMware; Virtual Hard Disk
// Image Format Specification, Microsoft. Of VHDX, qemu-img refuses such.)
func checkAlone(name string, f format, r io.ReaderAt, size int64) error {
	refuse := func(why string) error { return &Refused{Device: name, Why: why} }
	switch f {
	case formatQCOW2:
		h, err := header(name, r, 0, 104)
		be := binary.BigEndian
		switch {
		case err != nil:
			return err
		case be.Uint32(h[4:]) < 2 || be.Uint32(h[4:]) > 3:
			return refuse(fmt.Sprintf("it is of version %d of qcow; 2 and 3 are known", be.Uint32(h[4:])))
		case be.Uint64(h[8:]) != 0:
			return refuse("it has a backing file: merge the two with qemu-img convert -O qcow2")
		case be.Uint32(h[32:]) != 0:
			return refuse("it is encrypted: decrypt it with qemu-img convert")
		case be.Uint32(h[4:]) == 3 && be.Uint64(h[72:])&4 != 0:
			return refuse("its data are in another file: merge the two with qemu-img convert -O qcow2")
		}
	case formatVMDK:
		h, err := header(name, r, 0, 64)
		if err != nil {
			return err
		}
		if binary.LittleEndian.Uint64(h[12:]) == 0 {
			return refuse("it only describes a VMDK of several files: join them with qemu-img convert -O qcow2")
		}
		d, err := header(name, r, vmdkDescriptor, vmdkDescriptorSize)
		if err != nil {
			return err
		}
		if bytes.Contains(d, []byte("parentFileNameHint")) {
			return refuse("it is a snapshot, which needs its parent: merge the two with qemu-img convert -O qcow2")
		}
	case formatVHD:
		// Dynamic disks have a copy of the footer at the beginning.
		for _, at := range []int64{0, size - vhdFooter} {
			h, err := header(name, r, max(at, 0), vhdFooter)
			if err != nil {
				return err
			}
			if kind := binary.BigEndian.Uint32(h[60:]); bytes.HasPrefix(h, []byte("conectix")) && kind != 2 && kind != 3 {
				return refuse("it is neither a fixed nor a dynamic VHD: merge a differencing one with its parent first")
			}
		}
	}
	return nil
}

// header reads n bytes at off. What lies behind the file's end is zeros.
func header(name string, r io.ReaderAt, off int64, n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := r.ReadAt(b, off); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("archive: import %s: %w", name, err)
	}
	return b, nil
}

// qemuImg is the program of that name.
type qemuImg string

// findQemuImg looks for qemu-img; what says what for.
func findQemuImg(what string) (qemuImg, error) {
	path, err := exec.LookPath("qemu-img")
	if err != nil {
		return "", &Refused{Device: what, Why: "there is no qemu-img in PATH: install the package qemu-utils (Debian, Ubuntu), qemu-img (Fedora, RHEL) or qemu-tools (SUSE)"}
	}
	return qemuImg(path), nil
}

// command prepares a run of qemu-img. File names must be absolute paths:
// anything else could be read as an option or a protocol.
func (q qemuImg) command(ctx context.Context, args ...string) (cmd *exec.Cmd, said *bytes.Buffer) {
	cmd = exec.CommandContext(ctx, string(q), args...)
	said = new(bytes.Buffer)
	cmd.Stderr = said
	return cmd, said
}

// run runs qemu-img. Its error has what the program said.
func (q qemuImg) run(ctx context.Context, args ...string) error {
	cmd, said := q.command(ctx, args...)
	cmd.Stdout = said // check tells its findings there
	return toolError(args[0], cmd.Run(), said)
}

func toolError(verb string, err error, said *bytes.Buffer) error {
	if err == nil {
		return nil
	}
	words := strings.ReplaceAll(strings.TrimSpace(said.String()), "\n", "; ")
	return fmt.Errorf("qemu-img %s: %w: %.500s", verb, err, words)
}

// convert runs qemu-img convert and calls tell with 0 to 1, what is done of all
// that there is to copy.
func (q qemuImg) convert(ctx context.Context, tell func(float64), args ...string) error {
	cmd, said := q.command(ctx, append([]string{"convert", "-p"}, args...)...)
	cmd.Stdout = &percents{tell: tell}
	return toolError("convert", cmd.Run(), said)
}

// percents reads what qemu-img prints with -p: "    (12.00/100%)" and a carriage
// return, again and again.
type percents struct {
	tell func(float64)
	line []byte
}

// Write implements io.Writer.
func (p *percents) Write(b []byte) (int, error) {
	for _, c := range b {
		if c != '\r' {
			p.line = append(p.line, c)
			continue
		}
		var percent float64
		if _, err := fmt.Sscanf(string(bytes.TrimSpace(p.line)), "(%f/100%%)", &percent); err == nil {
			p.tell(percent / 100)
		}
		p.line = p.line[:0]
	}
	return len(b), nil
}

// share makes a share of total bytes of what tell, which may be nil, is called
// with.
func share(total int64, tell func(done, total int64)) func(float64) {
	return func(done float64) {
		if tell != nil {
			tell(int64(done*float64(total)), total)
		}
	}
}

// unpack makes a raw disk of a file. qemu-img convert takes data that a file
// was cut off for zeros, hence the checks before it.
func (q qemuImg) unpack(ctx context.Context, f format, file, raw string, tell func(done, total int64)) error {
	if f == formatQCOW2 || f == formatVMDK || f == formatVHDX { // VHD has no check
		if err := q.run(ctx, "check", "-f", string(f), file); err != nil && !leaked(err) {
			return err
		}
	}
	data, err := q.checkEnd(ctx, f, file)
	if err != nil {
		return err
	}
	return q.convert(ctx, share(data, tell), "-f", string(f), "-O", "raw", file, raw)
}

// leaked reports that a check found clusters that nothing uses and no other
// fault, which loses space but no data (qemu-img(1), exit code 3 of check).
func leaked(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.ExitCode() == 3
}

// checkEnd refuses a file that ends before the data it maps: check only looks
// at where they begin. It returns how many bytes of data the disk has.
func (q qemuImg) checkEnd(ctx context.Context, f format, file string) (data int64, err error) {
	st, err := os.Stat(file)
	if err != nil {
		return 0, err
	}
	cmd, said := q.command(ctx, "map", "--output=json", "-f", string(f), file)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	data, end, err := mapped(json.NewDecoder(out))
	_, _ = io.Copy(io.Discard, out) // so that it can end
	if werr := toolError("map", cmd.Wait(), said); werr != nil {
		return 0, werr
	}
	switch {
	case err != nil:
		return 0, fmt.Errorf("qemu-img map: %v", err)
	case end > st.Size():
		return 0, fmt.Errorf("it is cut short: its data end at %d, and it after %d bytes: %w", end, st.Size(), image.ErrFormat)
	}
	return data, nil
}

// mapped reads what qemu-img map prints, an array that can be long, and returns
// how many bytes of data there are and where in the file the last of them end.
func mapped(d *json.Decoder) (data, end int64, err error) {
	if _, err := d.Token(); err != nil {
		return 0, 0, err
	}
	for d.More() {
		var e struct {
			Length, Offset int64
			Data, Zero     bool
		}
		if err := d.Decode(&e); err != nil {
			return 0, 0, err
		}
		if e.Data && !e.Zero {
			data += e.Length
		}
		if e.Offset > 0 { // else it has no data, or compressed ones
			end = max(end, e.Offset+e.Length)
		}
	}
	_, err = d.Token()
	return data, end, err
}
