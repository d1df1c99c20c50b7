package receive

import (
	"context"
	"fmt"

	"huck/imager/api"
	"huck/imager/image"
	"huck/imager/install"
	"huck/imager/store"
)

// fromStore is Run for an image in a store on this machine.
func fromStore(ctx context.Context, cfg Config) (result api.Result, err error) {
	ref, err := image.ParseRef(cfg.Ref)
	if err != nil {
		return result, err
	}
	tag, err := cfg.Store.Resolve(ctx, ref)
	if err != nil {
		return result, err
	}
	img, err := store.OpenImage(ctx, cfg.Store, tag.Digest)
	if err != nil {
		return result, err
	}
	encoded, err := store.EncodedBytes(cfg.Store, img)
	if err != nil {
		return result, err
	}
	dev, err := cfg.open(img)
	if err != nil {
		return result, err
	}
	defer func() {
		if cerr := dev.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("receive: close %s: %v", cfg.Target, cerr)
		}
	}()
	job, err := install.New(img, dev, cfg.Install)
	if err != nil {
		return result, err
	}
	result, err = job.Run(ctx, install.FromStore(cfg.Store))
	result.EncodedBytes = encoded
	return result, err
}
