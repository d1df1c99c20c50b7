package api

import "huck/imager/image"

// Paths of a node that captures its disk into the server's store, below
// PathNodes/NODE. All need the node's token, and an assignment of ActionCapture.
// SESSION holds on to the chunks until the image is tagged; when it is gone
// (code "gone": the server was restarted, or nothing was heard of the node for
// long) the node begins anew, and asks again what the store has.
//
//	POST capture                         → CaptureSession; the node's present one, if there is one
//	POST capture/SESSION/ask             chunk IDs, 32 bytes each, at most CaptureAsk → CaptureKnown
//	PUT  capture/SESSION/chunks/ID?size=N  the encoded chunk with N decoded bytes → CaptureStored
//	POST capture/SESSION/flush           → 204; all chunks put so far are durable
//	PUT  capture/SESSION/image?manifest=N  N bytes of manifest, then the compressed map → 204; it is durable
//	POST capture/SESSION/tag?digest=ID   → CaptureTagged; the same answer, should the same be asked twice
//
// A chunk is verified before it is acknowledged: it must decode to N bytes with
// that ID. The image must be whole, see store.WriteStore.
const PathCapture = "capture"

// CaptureAsk is the most chunks that one request asks for.
const CaptureAsk = 4096

// CaptureSession answers the beginning of a capture.
type CaptureSession struct {
	Session string `json:"session"`
}

// CaptureKnown tells which chunks the store has, in the order they were asked
// for.
type CaptureKnown struct {
	Known []bool `json:"known"`
}

// CaptureStored answers a chunk.
type CaptureStored struct {
	// Added is false if the store has it already.
	Added bool `json:"added"`
}

// CaptureTagged tells what became of an image.
type CaptureTagged struct {
	Tag image.TagInfo `json:"tag"`
	// EncodedBytes is what its distinct chunks take in the store.
	EncodedBytes int64 `json:"encoded_bytes"`
}
