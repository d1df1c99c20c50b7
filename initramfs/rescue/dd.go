package rescue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"huck/imager/api"
)

// ddArgs are the operands of dd.
type ddArgs struct {
	in, out           string
	bs                int64
	count, skip, seek int64
	fsync             bool
}

func parseDD(args []string) (ddArgs, error) {
	a := ddArgs{bs: 64 << 10, count: -1}
	for _, arg := range args {
		key, value, ok := strings.Cut(arg, "=")
		if !ok {
			return a, usageError{}
		}
		var err error
		switch key {
		case "if":
			a.in = value
		case "of":
			a.out = value
		case "bs":
			a.bs, err = ddSize(value)
		case "count":
			a.count, err = number(value, 0)
		case "skip":
			a.skip, err = number(value, 0)
		case "seek":
			a.seek, err = number(value, 0)
		case "conv":
			for _, c := range strings.Split(value, ",") {
				switch c {
				case "fsync", "fdatasync":
					a.fsync = true
				case "notrunc":
				default:
					return a, fmt.Errorf("unknown conversion %q", c)
				}
			}
		default:
			return a, fmt.Errorf("unknown operand %q", arg)
		}
		if err != nil {
			return a, fmt.Errorf("%s: %v", arg, err)
		}
	}
	if a.bs < 1 || a.bs > 64<<20 {
		return a, fmt.Errorf("bs=%d is not within 1 … 64M", a.bs)
	}
	return a, nil
}

// ddSize reads a number with dd's units, where K is 1024.
func ddSize(s string) (int64, error) {
	if n := len(s); n > 0 && strings.IndexByte("KMGT", s[n-1]) >= 0 {
		s += "i"
	}
	return api.ParseSize(s)
}

func dd(ctx context.Context, s IO, args []string) (err error) {
	a, err := parseDD(args)
	if err != nil {
		return err
	}
	in, out := s.In, s.Out
	if a.in != "" {
		f, err := os.Open(a.in)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	if a.out != "" {
		// Never truncated: this is a rescue, and the target often a device.
		f, err := os.OpenFile(a.out, os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		defer func() {
			if a.fsync && err == nil {
				err = f.Sync()
			}
			err = errors.Join(err, f.Close())
		}()
		out = f
	}
	n, err := ddCopy(ctx, out, in, a)
	fmt.Fprintf(s.Err, "%d bytes copied\n", n)
	return err
}

func ddCopy(ctx context.Context, out io.Writer, in io.Reader, a ddArgs) (int64, error) {
	if a.skip > 0 {
		if f, ok := in.(io.Seeker); !ok {
			if _, err := io.CopyN(io.Discard, in, a.skip*a.bs); err != nil {
				return 0, err
			}
		} else if _, err := f.Seek(a.skip*a.bs, io.SeekStart); err != nil {
			return 0, err
		}
	}
	if a.seek > 0 {
		f, ok := out.(io.Seeker)
		if !ok {
			return 0, errors.New("seek= needs of=")
		}
		if _, err := f.Seek(a.seek*a.bs, io.SeekStart); err != nil {
			return 0, err
		}
	}
	buf := make([]byte, a.bs)
	var total int64
	for i := int64(0); (a.count < 0 || i < a.count) && ctx.Err() == nil; i++ {
		n, err := io.ReadFull(in, buf)
		if n > 0 {
			w, werr := out.Write(buf[:n])
			total += int64(w)
			if werr != nil {
				return total, werr
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
	return total, ctx.Err()
}
