package efiboot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf16"

	"github.com/google/uuid"
)

// option is a load option, the value of a Boot#### variable (UEFI 2.10,
// 3.1.3), without the optional data behind its device path.
type option struct {
	attributes  uint32
	description string
	path        []byte // the device path list as it stands
}

// active is the attribute of an option that the boot manager tries.
const active = 1

// errOption is about bytes that are no load option.
var errOption = errors.New("efiboot: no load option")

// append writes the option: attributes, length of the path, description with a
// final zero, path. All integers are little-endian.
func (o option) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, o.attributes)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(o.path)))
	return append(appendText(b, o.description), o.path...)
}

// parseOption reads a load option.
func parseOption(b []byte) (option, error) {
	if len(b) < 6 {
		return option{}, errOption
	}
	o := option{attributes: binary.LittleEndian.Uint32(b)}
	n, rest := int(binary.LittleEndian.Uint16(b[4:])), b[6:]
	var text []uint16
	for {
		if len(rest) < 2 {
			return option{}, errOption
		}
		c := binary.LittleEndian.Uint16(rest)
		rest = rest[2:]
		if c == 0 {
			break
		}
		text = append(text, c)
	}
	if n > len(rest) {
		return option{}, errOption
	}
	o.description, o.path = string(utf16.Decode(text)), rest[:n:n]
	return o, nil
}

// appendText writes UCS-2 with a final zero.
func appendText(b []byte, s string) []byte {
	for _, c := range append(utf16.Encode([]rune(s)), 0) {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return b
}

// The nodes of a device path that names a file in a partition (UEFI 2.10,
// 10.3.5.1 and 10.3.5.4): type 4, media.
const (
	mediaType     = 4
	hardDriveNode = 1
	filePathNode  = 4
	hardDriveLen  = 42
	formatGPT     = 2
	signatureGUID = 2
)

// appendPath writes the device path of a file in a partition, in its short
// form, which begins with the partition: firmware finds it on whatever
// controller the disk is.
func appendPath(b []byte, p Partition, file string) ([]byte, error) {
	id, err := uuid.Parse(p.UUID)
	if err != nil {
		return nil, fmt.Errorf("efiboot: partition %d: %v", p.Number, err)
	}
	le := binary.LittleEndian
	b = append(b, mediaType, hardDriveNode)
	b = le.AppendUint16(b, hardDriveLen)
	b = le.AppendUint32(b, uint32(p.Number))
	b = le.AppendUint64(b, uint64(p.Start/int64(p.Sector)))
	b = le.AppendUint64(b, uint64(p.Size/int64(p.Sector)))
	// A GUID's first three fields are little-endian (UEFI 2.10, appendix A).
	b = append(b, id[3], id[2], id[1], id[0], id[5], id[4], id[7], id[6])
	b = append(b, id[8:]...)
	b = append(b, formatGPT, signatureGUID)
	name := appendText(nil, file)
	b = append(b, mediaType, filePathNode)
	b = le.AppendUint16(b, uint16(4+len(name)))
	b = append(b, name...)
	return append(b, 0x7f, 0xff, 4, 0), nil // the end of the entire path
}
