package main

import (
	"math/rand/v2"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"huck/imager/image"
)

// verifyCost returns how many CPU seconds it takes to decode and verify 10⁹
// bytes of chunks that are stored raw: a part of what a receiver takes that
// programs without hashes do not have. To decode such a chunk is to copy it to
// where it is written from.
func verifyCost() (float64, error) {
	const (
		chunks = 64 // together more than caches hold for one program
		rounds = 8
	)
	raw, out := make([]byte, chunks*image.RegionSize), make([]byte, chunks*image.RegionSize)
	rand.NewChaCha8([32]byte{1}).Read(raw)
	copy(out, raw) // the first touch of memory is no part of it
	ids := make([]image.ID, chunks)
	chunk := func(i int) []byte { return raw[i*image.RegionSize:][:image.RegionSize] }
	for i := range ids {
		ids[i] = image.Sum(chunk(i))
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	dec, buf := image.NewDecoder(), make([]byte, image.RegionSize+image.DecodeSlack)
	start, err := threadTime()
	if err != nil {
		return 0, err
	}
	for range rounds {
		for i, id := range ids {
			decoded, err := dec.Decode(buf, chunk(i), id, image.RegionSize)
			if err != nil {
				return 0, err
			}
			copy(out[i*image.RegionSize:], decoded)
		}
	}
	end, err := threadTime()
	return (end - start).Seconds() / (rounds * float64(len(raw)) / 1e9), err
}

// threadTime is the CPU time of the calling thread.
func threadTime() (time.Duration, error) {
	var ts unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts)
	return time.Duration(ts.Nano()), err
}
