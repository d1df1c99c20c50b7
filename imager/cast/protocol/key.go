package protocol

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// SecretSize is the length in bytes of a session's secret.
const SecretSize = 32

// Key seals and opens the packets of one party of one session (Keys). It is
// not safe for concurrent use.
type Key struct {
	aead  cipher.AEAD
	nonce [12]byte
	out   [TagSize]byte
}

// SenderKey returns the key of the sender's packets.
func SenderKey(secret []byte, session uint32) (*Key, error) {
	return newKey(secret, session, "huck cast 1 sender")
}

// ReceiverKey returns the key of a receiver's packets.
func ReceiverKey(secret []byte, session uint32, receiver uint64) (*Key, error) {
	info := binary.BigEndian.AppendUint64([]byte("huck cast 1 receiver "), receiver)
	return newKey(secret, session, string(info))
}

func newKey(secret []byte, session uint32, info string) (*Key, error) {
	if len(secret) != SecretSize {
		return nil, fmt.Errorf("protocol: secret of %d bytes, want %d", len(secret), SecretSize)
	}
	key, err := hkdf.Key(sha256.New, secret, binary.BigEndian.AppendUint32(nil, session), info, 16)
	if err != nil {
		return nil, fmt.Errorf("protocol: derive key: %v", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("protocol: derive key: %v", err)
	}
	aead, err := cipher.NewGCMWithTagSize(block, TagSize)
	if err != nil {
		return nil, fmt.Errorf("protocol: derive key: %v", err)
	}
	return &Key{aead: aead}, nil
}

// Seal appends its tag to the packet that begins, with a Header, at b[at].
func (k *Key) Seal(b []byte, at int) []byte {
	k.setNonce(b[at:])
	return k.aead.Seal(b, k.nonce[:], nil, b[at:])
}

// Open reports whether the tag at the end of a packet is right. The packet
// must have passed ParseHeader.
func (k *Key) Open(packet []byte) bool {
	n := len(packet) - TagSize
	k.setNonce(packet)
	_, err := k.aead.Open(k.out[:0], k.nonce[:], packet[n:], packet[:n])
	return err == nil
}

// setNonce takes epoch ‖ counter from a header (Keys). The two high bytes of
// the 64-bit counter stay zero.
func (k *Key) setNonce(packet []byte) {
	copy(k.nonce[:4], packet[12:16])
	copy(k.nonce[6:], packet[6:12])
}

// Window tells counters that were seen before from new ones (Replays). The
// zero value has seen none.
type Window struct {
	top  uint64
	bits [windowSize / 64]uint64
}

// windowSize is how far behind the highest counter a packet may come: at
// 1 Gbit/s 2048 packets are 24 ms, more than a network reorders.
const windowSize = 2048

// Top returns the highest counter seen, 0 if none.
func (w *Window) Top() uint64 { return w.top }

// See marks a counter of an authentic packet as seen. It returns false if it
// was seen already or is too old to tell.
func (w *Window) See(counter uint64) bool {
	if counter+windowSize <= w.top || counter == 0 {
		return false
	}
	if counter > w.top {
		for c := max(w.top+1, counter-min(counter, windowSize-1)); c <= counter; c++ {
			w.bits[c/64%(windowSize/64)] &^= 1 << (c % 64)
		}
		w.top = counter
	}
	word, bit := &w.bits[counter/64%(windowSize/64)], uint64(1)<<(counter%64)
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	return true
}
