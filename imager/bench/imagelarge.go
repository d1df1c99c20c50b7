package main

import (
	"context"
	"encoding/binary"
	"errors"

	"huck/imager/image"
	"huck/imager/store"
)

// sparseImage puts an image of so many regions into a store, with one block in
// each, all different. It stands for a large disk where only its map counts.
func sparseImage(ctx context.Context, dir, name string, regions int) (err error) {
	st, err := store.Open(dir, store.Options{Create: true})
	if err != nil {
		return err
	}
	w, err := st.NewWriter(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	enc, code, block := image.NewEncoder(), []byte(nil), make([]byte, image.BlockSize)
	m := image.Map{Entries: make([]image.Entry, regions)}
	for i := range m.Entries {
		binary.LittleEndian.PutUint64(block, uint64(i)+1)
		e := image.Entry{Region: uint64(i), Used: 1, ID: image.Sum(block)}
		m.Entries[i] = e
		code = enc.Encode(code[:0], block)
		if _, err := w.Put(ctx, e.ID, len(block), code); err != nil {
			return err
		}
	}
	if err := w.Flush(ctx); err != nil {
		return err
	}
	chunkMap, err := m.AppendBinary(nil)
	if err != nil {
		return err
	}
	man := image.Manifest{Format: image.ManifestVersion, DiskSize: int64(regions) * image.RegionSize, SectorSize: 512, Table: "none",
		Map: image.MapInfo{Digest: image.Sum(chunkMap), Regions: regions, Chunks: regions, UsedBytes: int64(regions) * image.BlockSize}}
	manifest, digest, err := man.Marshal()
	if err != nil {
		return err
	}
	compressed, err := image.CompressMap(chunkMap)
	if err != nil {
		return err
	}
	if err := st.PutImage(ctx, manifest, compressed); err != nil {
		return err
	}
	_, err = st.CreateTag(ctx, name, digest, "", nil)
	return err
}
