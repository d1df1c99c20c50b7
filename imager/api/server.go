package api

import (
	"fmt"
	"net/url"
	"strings"
)

// ServerPort is the TCP port a boot server listens on unless told otherwise.
const ServerPort = 8480

// ParseServerURL reads a boot server's URL: http or https, a host, no path.
func ParseServerURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%.200q is not http(s)://HOST[:PORT]", s)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}
