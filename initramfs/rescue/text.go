package rescue

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// options cuts leading -x and, for the letters in valued, -x VALUE off args.
func options(args []string, flags, valued string) (map[byte]string, []string, error) {
	got := make(map[byte]string)
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		a := args[0][1:]
		args = args[1:]
		if a == "-" {
			break
		}
		for len(a) > 0 {
			c := a[0]
			a = a[1:]
			switch {
			case strings.IndexByte(flags, c) >= 0:
				got[c] = "1"
				continue
			case strings.IndexByte(valued, c) < 0:
				return nil, nil, usageError{}
			case a != "":
				got[c] = a
			case len(args) > 0:
				got[c], args = args[0], args[1:]
			default:
				return nil, nil, usageError{}
			}
			break
		}
	}
	return got, args, nil
}

func number(s string, otherwise int64) (int64, error) {
	if s == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(s, 0, 64)
	if err != nil || n < 0 {
		return 0, usageError{}
	}
	return n, nil
}

// each runs do on every file, or on the input if there is none.
func each(s IO, files []string, do func(name string, r io.Reader) error) error {
	if len(files) == 0 {
		return do("", s.In)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = do(name, f)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func head(_ context.Context, s IO, args []string) error {
	opt, files, err := options(args, "", "n")
	if err != nil {
		return err
	}
	n, err := number(opt['n'], 10)
	if err != nil {
		return err
	}
	return each(s, files, func(_ string, r io.Reader) error {
		br := bufio.NewReader(r)
		for range n {
			line, err := br.ReadBytes('\n')
			if _, werr := s.Out.Write(line); werr != nil {
				return werr
			}
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func tail(_ context.Context, s IO, args []string) error {
	opt, files, err := options(args, "", "n")
	if err != nil {
		return err
	}
	n, err := number(opt['n'], 10)
	if err != nil {
		return err
	}
	return each(s, files, func(_ string, r io.Reader) error {
		var last []string
		sc := bufio.NewReader(r)
		for {
			line, err := sc.ReadString('\n')
			if line != "" {
				last = append(last, line)
				if int64(len(last)) > n {
					last = last[1:]
				}
			}
			if err == io.EOF {
				_, err = io.WriteString(s.Out, strings.Join(last, ""))
				return err
			}
			if err != nil {
				return err
			}
		}
	})
}

func grep(_ context.Context, s IO, args []string) error {
	opt, rest, err := options(args, "iv", "")
	if err != nil || len(rest) == 0 {
		return usageError{}
	}
	expr := rest[0]
	if opt['i'] != "" {
		expr = "(?i)" + expr
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return err
	}
	found := false
	err = each(s, rest[1:], func(name string, r io.Reader) error {
		sc := bufio.NewScanner(r)
		sc.Buffer(nil, 1<<20)
		for sc.Scan() {
			if re.Match(sc.Bytes()) == (opt['v'] != "") {
				continue
			}
			found = true
			if len(rest) > 2 {
				fmt.Fprintf(s.Out, "%s:", name)
			}
			fmt.Fprintf(s.Out, "%s\n", sc.Bytes())
		}
		return sc.Err()
	})
	if err == nil && !found {
		return ExitError(1)
	}
	return err
}

func wc(_ context.Context, s IO, args []string) error {
	return each(s, args, func(name string, r io.Reader) error {
		var lines, words, size int64
		br := bufio.NewReader(r)
		for {
			line, err := br.ReadBytes('\n')
			size += int64(len(line))
			words += int64(len(bytes.Fields(line)))
			if bytes.HasSuffix(line, []byte("\n")) {
				lines++
			}
			if err == io.EOF {
				_, err = fmt.Fprintf(s.Out, "%d %d %d %s\n", lines, words, size, name)
				return err
			}
			if err != nil {
				return err
			}
		}
	})
}

func gzipCompress(_ context.Context, s IO, args []string) error {
	if len(args) > 0 {
		return usageError{}
	}
	w := gzip.NewWriter(s.Out)
	_, err := io.Copy(w, s.In)
	return errors.Join(err, w.Close())
}

func gunzip(_ context.Context, s IO, args []string) error {
	if len(args) > 0 {
		return usageError{}
	}
	r, err := gzip.NewReader(s.In)
	if err != nil {
		return err
	}
	_, err = io.Copy(s.Out, r)
	return err
}

func hexdump(_ context.Context, s IO, args []string) error {
	opt, files, err := options(args, "C", "sn")
	if err != nil || len(files) > 1 {
		return usageError{}
	}
	skip, err := number(opt['s'], 0)
	if err != nil {
		return err
	}
	n, err := number(opt['n'], 1<<62)
	if err != nil {
		return err
	}
	return each(s, files, func(_ string, r io.Reader) error {
		if f, ok := r.(*os.File); ok && skip > 0 {
			if _, err := f.Seek(skip, io.SeekStart); err != nil {
				return err
			}
		} else if _, err := io.CopyN(io.Discard, r, skip); err != nil {
			return err
		}
		return dump(s.Out, io.LimitReader(r, n), skip)
	})
}

// dump prints lines of 16 bytes with their true offsets.
func dump(w io.Writer, r io.Reader, at int64) error {
	out := bufio.NewWriter(w)
	buf := make([]byte, 16)
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			line := hex.Dump(buf[:n])
			fmt.Fprintf(out, "%08x%s", at, line[8:])
			at += int64(n)
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return out.Flush()
		}
		if err != nil {
			return errors.Join(err, out.Flush())
		}
	}
}

func sleep(ctx context.Context, _ IO, args []string) error {
	if len(args) != 1 {
		return usageError{}
	}
	sec, err := strconv.ParseFloat(args[0], 64)
	if err != nil {
		return usageError{}
	}
	select {
	case <-time.After(time.Duration(sec * float64(time.Second))):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
