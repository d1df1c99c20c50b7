package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"huck/bootserver/boot"
	"huck/bootserver/dhcp"
	"huck/imager/api"
)

// blocks returns the text of the fenced blocks of BOOTING.md with that word
// after the fence.
func blocks(t *testing.T, word string) []string {
	t.Helper()
	text, err := os.ReadFile("BOOTING.md")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for part := range strings.SplitSeq(string(text), "\n```"+word+"\n") {
		body, _, ok := strings.Cut(part, "\n```")
		if !ok {
			t.Fatalf("a block %q does not end", word)
		}
		found = append(found, body+"\n")
	}
	if len(found) < 2 {
		t.Fatalf("BOOTING.md has no block %q", word)
	}
	return found[1:]
}

// unhex reads lines of "hex  comment".
func unhex(t *testing.T, text string) []byte {
	t.Helper()
	var b []byte
	for line := range strings.Lines(text) {
		digits, _, _ := strings.Cut(line, "  ")
		part, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(digits), " ", ""))
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		b = append(b, part...)
	}
	return b
}

type noStore struct{}

func (noStore) Put(context.Context, string, []byte) error { return nil }
func (noStore) List(context.Context, string) (map[string][]byte, error) {
	return nil, nil
}

// TestBootingExamples answers the requests in BOOTING.md and compares with the
// replies there, byte by byte.
func TestBootingExamples(t *testing.T) {
	server := &url.URL{Scheme: "http", Host: "10.0.0.1:8480"}
	s := newTold(&site{url: server, files: boot.Folder(netboot(t)), log: slog.New(slog.DiscardHandler)})
	own := netip.MustParsePrefix("10.0.0.1/24")
	pool, err := dhcp.ParsePool("10.0.0.50-10.0.0.250")
	if err != nil {
		t.Fatal(err)
	}
	tell := dhcp.BootConfig{Server: own.Addr(), ServerURL: server.String(), BootFile: s.bootFile}
	r, err := dhcp.NewResponder(t.Context(), dhcp.Config{BootConfig: tell, Subnets: []dhcp.Subnet{{Prefix: own, Pools: []dhcp.Pool{pool}}}}, noStore{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := dhcp.NewProxy(tell)
	if err != nil {
		t.Fatal(err)
	}
	answers(t, "dhcp", r.Handle)
	answers(t, "proxy", p.Handle)
	answers(t, "boot", p.HandleBoot)
	for i, got := range []string{boot.Script(server, ""), boot.OwnDiskScript} {
		if want := blocks(t, "ipxe")[i]; got != want {
			t.Errorf("script %d is\n%s\nwant\n%s", i, got, want)
		}
	}
}

// answers compares what handle makes of each block WORD-request with the block
// WORD-reply.
func answers(t *testing.T, word string, handle dhcp.Handler) {
	t.Helper()
	requests, replies := blocks(t, word+"-request"), blocks(t, word+"-reply")
	if len(requests) != len(replies) {
		t.Fatalf("%s: %d requests, %d replies", word, len(requests), len(replies))
	}
	for i := range requests {
		req, err := dhcpv4.FromBytes(frame(t, requests[i]))
		if err != nil {
			t.Fatalf("%s request %d: %v", word, i, err)
		}
		reply, err := handle(t.Context(), req, time.Unix(1e9, 0))
		if err != nil {
			t.Fatalf("%s request %d: %v", word, i, err)
		}
		want := frame(t, replies[i])
		if got := reply.ToBytes(); len(got) < len(want) || string(got[:len(want)]) != string(want) || strings.Trim(string(got[len(want):]), "\x00") != "" {
			t.Errorf("%s reply %d is\n% x\nwant\n% x", word, i, got, want)
		}
	}
}

// frame reads a message in which sname and file are written as lengths of
// zeros: "0 × N" stands for N zero bytes.
func frame(t *testing.T, text string) []byte {
	t.Helper()
	var b []byte
	for line := range strings.Lines(text) {
		if n, ok := strings.CutPrefix(line, "00 × "); ok {
			count, _, _ := strings.Cut(n, " ")
			var zeros int
			for _, c := range strings.TrimSpace(count) {
				zeros = zeros*10 + int(c-'0')
			}
			b = append(b, make([]byte, zeros)...)
			continue
		}
		b = append(b, unhex(t, line)...)
	}
	return b
}

// TestDiscoveryExamples: the document's bytes are what both sides say.
func TestDiscoveryExamples(t *testing.T) {
	nonce := api.DiscoveryNonce{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	if got, want := api.AppendDiscoveryQuestion(nil, nonce), frame(t, blocks(t, "discovery-question")[0]); !bytes.Equal(got, want) {
		t.Errorf("a question is % x, documented % x", got, want)
	}
	got, err := api.AppendDiscoveryAnswer(nil, nonce, &url.URL{Scheme: "http", Host: "10.0.0.1:8480"})
	if want := frame(t, blocks(t, "discovery-answer")[0]); err != nil || !bytes.Equal(got, want) {
		t.Errorf("an answer is % x, %v, documented % x", got, err, want)
	}
}
