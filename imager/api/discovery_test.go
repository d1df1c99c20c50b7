package api_test

import (
	"bytes"
	"net/url"
	"strings"
	"testing"

	"huck/imager/api"
)

var nonce = api.DiscoveryNonce{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

func TestDiscoveryRoundTrip(t *testing.T) {
	q := api.AppendDiscoveryQuestion(nil, nonce)
	if got, err := api.ParseDiscoveryQuestion(q); err != nil || got != nonce {
		t.Fatalf("question reads back as %v, %v", got, err)
	}
	for _, text := range []string{"http://10.0.0.1:8480", "https://[fd00::1]:443", "http://" + strings.Repeat("a", api.MaxDiscoveryURL-7)} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		a, err := api.AppendDiscoveryAnswer(nil, nonce, u)
		if err != nil {
			t.Fatal(err)
		}
		if len(a) > len(q) {
			t.Errorf("an answer of %d bytes to a question of %d", len(a), len(q))
		}
		got, server, err := api.ParseDiscoveryAnswer(a)
		if err != nil || got != nonce || server.String() != text {
			t.Errorf("answer reads back as %v, %v, %v", got, server, err)
		}
		for n := range a {
			if _, _, err := api.ParseDiscoveryAnswer(a[:n]); err == nil {
				t.Errorf("%d of %d bytes are an answer", n, len(a))
			}
		}
		if _, err := api.ParseDiscoveryQuestion(a); err == nil {
			t.Error("an answer is a question")
		}
	}
	if _, err := api.AppendDiscoveryAnswer(nil, nonce, &url.URL{Scheme: "http", Host: strings.Repeat("a", api.MaxDiscoveryURL)}); err == nil {
		t.Error("a URL too long for an answer")
	}
	if _, err := api.ParseDiscoveryQuestion(q[:len(q)-1]); err == nil {
		t.Error("a short question, which an answer would exceed")
	}
}

func FuzzDiscovery(f *testing.F) {
	f.Add(api.AppendDiscoveryQuestion(nil, nonce))
	a, err := api.AppendDiscoveryAnswer(nil, nonce, &url.URL{Scheme: "http", Host: "[fd00::1]:8480"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(a)
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := api.ParseDiscoveryQuestion(b); err == nil {
			if again, err := api.ParseDiscoveryQuestion(api.AppendDiscoveryQuestion(nil, n)); err != nil || again != n {
				t.Errorf("question %x reads back as %v, %v", b, again, err)
			}
		}
		n, u, err := api.ParseDiscoveryAnswer(b)
		if err != nil {
			return
		}
		out, err := api.AppendDiscoveryAnswer(nil, n, u)
		if err != nil {
			t.Fatal(err)
		}
		if _, again, err := api.ParseDiscoveryAnswer(out); err != nil || again.String() != u.String() || !bytes.Equal(out[8:24], b[8:24]) {
			t.Errorf("answer %q reads back as %v, %v", u, again, err)
		}
	})
}
