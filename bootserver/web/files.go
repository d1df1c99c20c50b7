package web

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"

	"huck/bootserver/boot"
	"huck/imager/origin"
)

// script answers with the iPXE script. The MAC in the query is no proof of who
// asks: a machine's identity is what its appliance registers. It does for the
// decision that a machine may be left to its own disk, which writes nothing.
func (s *server) script(w http.ResponseWriter, r *http.Request) {
	setWriteDeadline(w, answerTime)
	mac := ""
	if hw, err := net.ParseMAC(r.URL.Query().Get("mac")); err == nil && len(hw) == 6 {
		mac = hw.String()
	}
	server := s.Server
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && s.Server6 != nil && peer.Addr().Is6() && !peer.Addr().Is4In6() {
		server = s.Server6
	}
	text := boot.Script(server, s.Append)
	if mac != "" && r.Method == http.MethodGet {
		ownDisk, err := s.Nodes.AtFirmware(r.Context(), mac)
		if err != nil { // the appliance will ask again
			s.Log.Warn("web: boot script", "mac", mac, "err", err)
		}
		if ownDisk {
			text = boot.OwnDiskScript
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	fmt.Fprint(w, text) // a client that left is no fault
	if s.Scripted != nil && r.Method == http.MethodGet {
		s.Scripted(mac)
	}
}

// bootFile serves the netboot folder, ranges included.
func (s *server) bootFile(w http.ResponseWriter, r *http.Request) {
	setWriteDeadline(w, sendTime)
	name := r.PathValue("name")
	file, info, err := s.Files.Open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, boot.ErrName):
		s.Log.Info("web: no such boot file", "peer", r.RemoteAddr, "file", name)
		origin.WriteError(w, http.StatusNotFound, "not_found", fmt.Errorf("web: no boot file %.120q", name))
		return
	case err != nil:
		s.Log.Warn("web: boot file", "peer", r.RemoteAddr, "file", name, "err", err)
		origin.WriteError(w, http.StatusNotFound, "not_found", fmt.Errorf("web: boot file %.120q cannot be read", name))
		return
	}
	defer file.Close()
	s.Log.Info("web: boot file", "peer", r.RemoteAddr, "file", name, "bytes", info.Size())
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", info.ModTime(), file)
}
