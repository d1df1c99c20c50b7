package image_test

import (
	"encoding/binary"
	"testing"

	"huck/imager/image"
)

// TestNumbers holds a table against a Go map: IDs that come twice, more of them
// than there was room for, and IDs that are not there.
func TestNumbers(t *testing.T) {
	const n, distinct = 5000, 3000
	ids := make([]image.ID, n)
	for i := range ids {
		ids[i] = image.Sum(binary.LittleEndian.AppendUint32(nil, uint32(i%distinct)))
	}
	for _, room := range []int{0, 1, 2, 3, 100, distinct, n} {
		table := image.NewNumbers(room, func(n uint32) *image.ID { return &ids[n] })
		model := make(map[image.ID]uint32)
		for i := range ids {
			want, known := model[ids[i]]
			if found, ok := table.Find(&ids[i]); ok != known || ok && found != want {
				t.Fatalf("room %d: find %d: %d, %t, want %d, %t", room, i, found, ok, want, known)
			}
			if before, was := table.Set(uint32(i)); was != known || was && before != want {
				t.Fatalf("room %d: set %d: %d, %t, want %d, %t", room, i, before, was, want, known)
			}
			model[ids[i]] = uint32(i)
		}
		for i := range ids {
			if found, ok := table.Find(&ids[i]); !ok || found != model[ids[i]] {
				t.Errorf("room %d: find %d: %d, %t, want %d", room, i, found, ok, model[ids[i]])
			}
		}
		if table.Len() != distinct {
			t.Errorf("room %d: %d IDs, want %d", room, table.Len(), distinct)
		}
		if _, ok := table.Find(&image.ID{1}); ok {
			t.Errorf("room %d: found an ID that is not there", room)
		}
	}
}
