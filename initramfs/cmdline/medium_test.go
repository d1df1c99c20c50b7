package cmdline_test

import (
	"strings"
	"testing"

	"huck/initramfs/cmdline"
)

func TestMedium(t *testing.T) {
	o, err := cmdline.Parse("console=tty0 huck.medium=HUCK_0123456789ABCDEF")
	if err != nil || o.Medium != "HUCK_0123456789ABCDEF" {
		t.Errorf("got %q, %v", o.Medium, err)
	}
	if o, err := cmdline.Parse("huck.medium=debian"); err == nil || !strings.Contains(err.Error(), "HUCK_") || o.Medium != "" {
		t.Errorf("another's volume: %q, %v", o.Medium, err)
	}
}
