// Package server is the appliance's side of the talk with its boot server:
// registration, assignments and events.
package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"huck/imager/api"
	"huck/imager/origin"
	"huck/imager/personal"
)

const (
	// maxAnswer bounds what a boot server may answer to an API call: six times
	// personal.MaxRendered, should JSON have to escape all of it.
	maxAnswer = 8 << 20
	// callTime bounds a call that the server answers at once.
	callTime = 20 * time.Second
)

// Client talks to one boot server as one node. Its methods try once; callers
// decide about more.
type Client struct {
	base      *url.URL
	plain     *http.Client
	authed    *http.Client
	inventory func() api.Inventory

	mu  sync.Mutex // held while registering: one registration at a time
	reg api.Registered
}

// New returns a client of the server at base, which presents the machine as
// inventory tells it.
func New(base *url.URL, inventory func() api.Inventory) *Client {
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 10 * time.Second}
	transport := &http.Transport{
		// No proxy: the server is on the machine's own network, and there is no environment to configure one.
		DialContext:           origin.Dial(dialer.DialContext).Hedged(),
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: api.LongPoll + callTime,
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConnsPerHost:   8,
	}
	c := &Client{base: base, plain: &http.Client{Transport: transport}, inventory: inventory}
	c.authed = &http.Client{Transport: &authorizer{client: c, next: transport}}
	return c
}

// Base returns the server's URL.
func (c *Client) Base() *url.URL { return c.base }

// HTTP returns a client whose requests to the server carry the node's token.
// Where the server does not know it (any more), the node registers anew and
// the request is made once more.
func (c *Client) HTTP() *http.Client { return c.authed }

// Node returns the node's ID, "" before the first registration.
func (c *Client) Node() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reg.Node
}

// Register tells the server who we are.
func (c *Client) Register(ctx context.Context) (api.Registered, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.register(ctx)
}

func (c *Client) register(ctx context.Context) (api.Registered, error) {
	var reg api.Registered
	err := c.call(ctx, c.plain, http.MethodPost, api.PathNodes, c.inventory(), &reg)
	if err == nil && (reg.Node == "" || reg.Token == "") {
		err = fmt.Errorf("the answer names no node or no token")
	}
	if err != nil {
		return api.Registered{}, fmt.Errorf("server: register at %s: %w", c.base, err)
	}
	c.reg = reg
	return reg, nil
}

// renewed returns a token other than old, for which it registers if need be.
func (c *Client) renewed(ctx context.Context, old string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reg.Token != old {
		return c.reg.Token, nil
	}
	reg, err := c.register(ctx)
	return reg.Token, err
}

func (c *Client) token() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reg.Token
}

// Assignment asks what to do. While that has the serial after, the server
// keeps us waiting for up to api.LongPoll.
func (c *Client) Assignment(ctx context.Context, after uint64) (api.Assignment, error) {
	ctx, cancel := context.WithTimeout(ctx, api.LongPoll+callTime)
	defer cancel()
	var a api.Assignment
	path := c.nodePath("assignment") + "?after=" + strconv.FormatUint(after, 10)
	if err := c.call(ctx, c.authed, http.MethodGet, path, nil, &a); err != nil {
		return api.Assignment{}, fmt.Errorf("server: assignment from %s: %w", c.base, err)
	}
	return a, nil
}

// Personality asks what the installed system is to be made. It holds secrets.
func (c *Client) Personality(ctx context.Context) (*personal.Personality, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var b json.RawMessage
	if err := c.call(ctx, c.authed, http.MethodGet, c.nodePath("personality"), nil, &b); err != nil {
		return nil, fmt.Errorf("server: personality from %s: %w", c.base, err)
	}
	return personal.ParsePersonality(b)
}

// Post sends events.
func (c *Client) Post(ctx context.Context, events []api.Event) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	if err := c.call(ctx, c.authed, http.MethodPost, c.nodePath("events"), events, nil); err != nil {
		return fmt.Errorf("server: events to %s: %w", c.base, err)
	}
	return nil
}

func (c *Client) nodePath(what string) string {
	return api.PathNodes + "/" + url.PathEscape(c.Node()) + "/" + what
}

// call makes one request. An answer other than 2xx is an *api.Error.
func (c *Client) call(ctx context.Context, hc *http.Client, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base.String()+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set(api.HeaderClock, time.Now().Format(time.RFC3339Nano))
	}
	resp, err := hc.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return answerError(resp, b)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

func answerError(resp *http.Response, body []byte) error {
	e := new(api.Error)
	if json.Unmarshal(body, e) != nil || e.Code == "" {
		return &api.Error{Code: "internal", Message: fmt.Sprintf("%s answered %s", resp.Request.URL, resp.Status)}
	}
	return e
}

// authorizer puts the token on requests to the server and no other.
type authorizer struct {
	client *Client
	next   http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (a *authorizer) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host != a.client.base.Host || req.URL.Scheme != a.client.base.Scheme {
		return a.next.RoundTrip(req)
	}
	token := a.client.token()
	resp, err := a.next.RoundTrip(withToken(req, token))
	if err != nil || resp.StatusCode != http.StatusUnauthorized || req.Body != nil && req.GetBody == nil {
		return resp, err
	}
	resp.Body.Close()
	if token, err = a.client.renewed(req.Context(), token); err != nil {
		return nil, err
	}
	again := withToken(req, token)
	if req.GetBody != nil {
		if again.Body, err = req.GetBody(); err != nil {
			return nil, err
		}
	}
	return a.next.RoundTrip(again)
}

func withToken(req *http.Request, token string) *http.Request {
	r := req.Clone(req.Context())
	r.Header.Set(api.HeaderAuth, "Bearer "+token)
	return r
}

// Permanent tells whether an error is the server's final word on what was
// asked, rather than trouble on the way to it.
func Permanent(err error) bool {
	var e *api.Error
	return errors.As(err, &e) && e.Code != "internal" && e.Code != "unauthorized"
}
