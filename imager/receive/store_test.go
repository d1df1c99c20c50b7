package receive_test

import (
	"errors"
	"path/filepath"
	"testing"

	"huck/imager/disk"
	"huck/imager/install"
	"huck/imager/receive"
	"huck/imager/store"
	"huck/imager/store/storetest"
)

// An image in a store at hand takes neither an origin nor a network.
func TestFromStore(t *testing.T) {
	st, err := store.Open(t.TempDir(), store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	tag, _ := storetest.Put(t, st, "test", storetest.MakeImage(t, 1, 2, 3))
	target := filepath.Join(t.TempDir(), "disk")
	r, err := receive.Run(t.Context(), receive.Config{Store: st, Ref: "test", Target: target})
	if err != nil {
		t.Fatal(err)
	}
	img, err := store.OpenImage(t.Context(), st, tag.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if want, err := store.EncodedBytes(st, img); err != nil || r.EncodedBytes != want || r.Received[install.ViaStore] != want {
		t.Errorf("got %+v, want %d bytes from the store (%v)", r, want, err)
	}
	dev, err := disk.Open(target, false)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if report, err := install.Verify(t.Context(), img, dev, nil); err != nil || !report.Equal() {
		t.Errorf("the disk is not the image: %+v, %v", report, err)
	}
	if _, err := receive.Run(t.Context(), receive.Config{Store: st, Ref: "other", Target: target}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an image that is not there: %v", err)
	}
}
