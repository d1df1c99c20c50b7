package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"huck/imager/api"
)

const (
	// callTime bounds a call that is answered at once.
	callTime = 30 * time.Second
	// maxAnswer bounds its answer: a list of ten thousand nodes.
	maxAnswer = 64 << 20
)

// serverFlag names the boot server that a command talks to.
type serverFlag struct {
	Server string `default:"http://127.0.0.1:8480" placeholder:"URL" help:"The boot server (${default}); it takes orders from its own host only."`
}

// open makes one request and returns the answer's body; an answer other than
// 2xx is an *api.Error.
func (f serverFlag) open(ctx context.Context, method string, query url.Values, in any, path ...string) (io.ReadCloser, error) {
	base, err := url.Parse(f.Server)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return nil, usageError{fmt.Errorf("--server %q is no http://HOST:PORT", f.Server)}
	}
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	u := base.JoinPath(path...)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("boot server: %w (does it run there? --server names another)", err)
	}
	if resp.StatusCode/100 == 2 {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	said := new(api.Error)
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil || json.Unmarshal(b, said) != nil || said.Code == "" {
		return nil, fmt.Errorf("boot server: %s answered %s", u, resp.Status)
	}
	return nil, fmt.Errorf("boot server: %w", said)
}

// call makes one request and reads the answer into out, if that is not nil.
func (f serverFlag) call(ctx context.Context, method string, in, out any, path ...string) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	body, err := f.open(ctx, method, nil, in, path...)
	if err != nil {
		return err
	}
	defer body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("boot server: answer: %w", err)
	}
	return nil
}
