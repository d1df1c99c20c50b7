package uki

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"huck/build/output"
)

// Options say what to put together and where.
type Options struct {
	Stub              string // systemd's linuxx64.efi.stub
	Kernel, Initramfs string // files; the initramfs may be several archives in one file
	CommandLine       string // what follows the kernel's built-in line
	// Key and Certificate are files in PEM to sign with; both or none.
	Key, Certificate string
	Out              string
}

// osRelease is what boot menus show of the image (os-release(5)).
const osRelease = "ID=huck\nNAME=Huck\nPRETTY_NAME=\"Huck appliance\"\n"

// Write makes the image and signs it if there is a key.
func Write(ctx context.Context, o Options) error {
	if (o.Key == "") != (o.Certificate == "") {
		return errors.New("signing takes a key and its certificate (SB_KEY and SB_CERT): one of them is missing")
	}
	stub, err := os.ReadFile(o.Stub)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: `build/bootstrap.sh netboot` installs it, --stub names another", err)
	}
	if err != nil {
		return err
	}
	kernel, err := os.ReadFile(o.Kernel)
	if err != nil {
		return err
	}
	initramfs, err := os.ReadFile(o.Initramfs)
	if err != nil {
		return err
	}
	image, err := Append(stub, []Section{
		{OSRelease, []byte(osRelease)},
		{CommandLine, append([]byte(o.CommandLine), 0)},
		{Initramfs, initramfs},
		{Kernel, kernel},
	})
	if err != nil {
		return fmt.Errorf("%s: %w", o.Stub, err)
	}
	if o.Key != "" {
		return o.sign(ctx, image)
	}
	return output.Write(o.Out, func(w io.Writer) error {
		_, err := w.Write(image)
		return err
	})
}

// sign has sbsign make the image that is put out; the unsigned one is seen by nobody.
func (o Options) sign(ctx context.Context, image []byte) error {
	dir, err := os.MkdirTemp("", "huck-uki-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	plain, signed := filepath.Join(dir, "plain.efi"), filepath.Join(dir, "signed.efi")
	if err := os.WriteFile(plain, image, 0o600); err != nil {
		return err
	}
	text, err := exec.CommandContext(ctx, "sbsign", "--key", o.Key, "--cert", o.Certificate, "--output", signed, plain).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%w: `build/bootstrap.sh netboot` installs it", err)
	}
	if err != nil {
		return fmt.Errorf("sbsign with key %s and certificate %s: %w\n%s", o.Key, o.Certificate, err, text)
	}
	return output.Copy(o.Out, signed)
}
