package nodes

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"

	"huck/imager/personal"
)

// rsaBits is what ssh-keygen(1) makes by default.
const rsaBits = 3072

// newHostKey makes a key pair for an SSH server.
func newHostKey(kind, comment string) (personal.HostKey, error) {
	var key crypto.Signer
	var err error
	switch kind {
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case "ecdsa":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "rsa":
		key, err = rsa.GenerateKey(rand.Reader, rsaBits)
	default:
		err = fmt.Errorf("unknown type %q", kind)
	}
	if err != nil {
		return personal.HostKey{}, fmt.Errorf("make host key: %v", err)
	}
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return personal.HostKey{}, fmt.Errorf("make host key: %v", err)
	}
	pub, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return personal.HostKey{}, fmt.Errorf("make host key: %v", err)
	}
	line := strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(pub)), "\n") + " " + comment + "\n"
	return personal.HostKey{Type: kind, Private: string(pem.EncodeToMemory(block)), Public: line}, nil
}
