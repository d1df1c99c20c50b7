package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"huck/imager/api"
	"huck/imager/bench/rig"
)

// tool is a program that delivers a file to many hosts.
type tool struct {
	name string
	// needs are its programs, beside the imager.
	needs []string
	// server and receiver return commands to run. Channels count from 0,
	// receivers' hosts from 1.
	server   func(x *transfer, channel int) []string
	receiver func(x *transfer, host int) ([]string, error)
	// url, if set, finds in a line of the server's what receivers connect to.
	// Without it the server is ready once it has a UDP socket.
	url func(line string) (string, bool)
	// last says that the server starts when the receivers are there.
	last bool
	// complete, if set, reports whether a line of a receiver's tells that it has
	// everything. Without it that is when it ends well.
	complete func(line string) bool
}

var tools = []tool{
	{
		name: "huck",
		server: func(x *transfer, channel int) []string {
			args := []string{x.work.imager, "--json", "send", x.images[channel], "--store", x.work.store(),
				"--listen", rig.Addr(0).String() + ":0", "--interface", "eth0"}
			if x.sendRate != "" {
				args = append(args, "--rate", x.sendRate)
			}
			if x.Polite {
				args = append(args, "--polite")
			}
			return args
		},
		receiver: func(x *transfer, host int) ([]string, error) {
			c := x.channel(host)
			return []string{x.work.imager, "--json", "receive", x.urls[c] + x.images[c], "--to", "discard", "--interface", "eth0"}, nil
		},
		url: readyURL,
	},
	{
		name:  "udpcast",
		needs: []string{"udp-sender", "udp-receiver"},
		server: func(x *transfer, _ int) []string {
			return []string{"udp-sender", "--nokbd", "--no-progress", "--min-receivers", fmt.Sprint(x.N), "--min-wait", "0",
				"--interface", "eth0", "--file", x.file}
		},
		receiver: func(*transfer, int) ([]string, error) {
			return []string{"udp-receiver", "--nokbd", "--no-progress", "--interface", "eth0", "--file", os.DevNull}, nil
		},
	},
	{
		name:  "uftp",
		needs: []string{"uftp", "uftpd"},
		last:  true,
		server: func(x *transfer, _ int) []string {
			ids := make([]string, x.N)
			for i := range ids {
				ids[i] = uftpID(i + 1)
			}
			// It keeps the rate that it is told; some room for what it does not count.
			return []string{"uftp", "-R", fmt.Sprint(x.Rate / 1000 * 95 / 100), "-I", "eth0", "-H", strings.Join(ids, ","), x.file}
		},
		receiver: func(x *transfer, host int) ([]string, error) {
			dir := filepath.Join(x.dir, fmt.Sprint("uftp", host)) // it wants to write a file
			return []string{"uftpd", "-d", "-D", dir, "-I", "eth0", "-U", uftpID(host), "-F", "/dev/stdout"}, os.Mkdir(dir, 0o755)
		},
		complete: func(line string) bool {
			return strings.HasPrefix(line, "RESULT;") && strings.HasSuffix(line, ";copied")
		},
	},
}

func uftpID(host int) string { return fmt.Sprintf("0x%08X", host) }

func toolNamed(name string) (tool, error) {
	var names []string
	for _, t := range tools {
		if t.name == name {
			return t, nil
		}
		names = append(names, t.name)
	}
	return tool{}, fmt.Errorf("no tool %q, there are %s; %w", name, strings.Join(names, ", "), errUsage)
}

// readyURL reads the line that `imager --json send` prints when it is ready.
func readyURL(line string) (string, bool) {
	var ready struct{ Event, HTTP string }
	if json.Unmarshal([]byte(line), &ready) != nil || ready.Event != "ready" {
		return "", false
	}
	return "http://" + ready.HTTP + "/", true
}

// doneResult reads the line that `imager --json receive` ends with.
func doneResult(line string) (api.Result, bool) {
	var r api.Result
	if json.Unmarshal([]byte(line), &r) != nil || r.Event != "done" {
		return r, false
	}
	return r, true
}
