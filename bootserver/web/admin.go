package web

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"

	"huck/imager/api"
	"huck/imager/image"
	"huck/imager/origin"
)

func (s *server) list(w http.ResponseWriter, r *http.Request) {
	setWriteDeadline(w, answerTime)
	origin.WriteJSON(w, http.StatusOK, s.Nodes.List())
}

func (s *server) assign(w http.ResponseWriter, r *http.Request) {
	setWriteDeadline(w, sendTime) // of a large group, each node is a write
	a, err := s.assignTo(w, r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	origin.WriteJSON(w, http.StatusOK, a)
}

func (s *server) assignTo(w http.ResponseWriter, r *http.Request) (a api.Assignment, err error) {
	var req api.AssignRequest
	if err := readJSON(w, r, maxAssign, &req); err != nil {
		return a, err
	}
	if _, err := image.ParseRef(req.Ref); err != nil {
		return a, fmt.Errorf("%w: %v", errBody, err)
	}
	resolved, err := s.Resolve(r.Context(), req.Ref)
	if err != nil {
		err = fmt.Errorf("web: image %s: %w", req.Ref, err)
		s.Events.Add(api.Event{Type: api.EventNode, Node: r.PathValue("node"), Message: "assign refused", Error: err.Error()})
		return a, err
	}
	return s.Nodes.Assign(r.Context(), r.PathValue("node"), req, resolved)
}

func (s *server) unassign(w http.ResponseWriter, r *http.Request) {
	setWriteDeadline(w, sendTime)
	if err := s.Nodes.Unassign(r.Context(), r.PathValue("node")); err != nil {
		s.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *server) capture(w http.ResponseWriter, r *http.Request) {
	order(s, w, r, func(req api.CaptureRequest) error {
		return s.Nodes.Capture(r.Context(), r.PathValue("node"), req)
	})
}

func (s *server) uncapture(w http.ResponseWriter, r *http.Request) {
	setWriteDeadline(w, answerTime)
	if err := s.Nodes.Uncapture(r.Context(), r.PathValue("node")); err != nil {
		s.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *server) maintain(w http.ResponseWriter, r *http.Request) {
	order(s, w, r, func(req api.MaintenanceRequest) error {
		return s.Nodes.Maintain(r.Context(), r.PathValue("node"), req.On)
	})
}

func (s *server) model(w http.ResponseWriter, r *http.Request) {
	order(s, w, r, func(req api.ModelRequest) error {
		return s.Nodes.SetModel(r.Context(), r.PathValue("node"), req.Start)
	})
}

// order answers a request whose body has all there is to say, with nothing.
func order[T any](s *server, w http.ResponseWriter, r *http.Request, do func(T) error) {
	setWriteDeadline(w, readTime+answerTime)
	var req T
	err := readJSON(w, r, maxAssign, &req)
	if err == nil {
		err = do(req)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *server) group(w http.ResponseWriter, r *http.Request) {
	setWriteDeadline(w, sendTime) // of a large group, each node is a write
	var req api.GroupRequest
	var g api.Group
	err := readJSON(w, r, maxReport, &req)
	if err == nil {
		g, err = s.Nodes.Group(r.Context(), r.PathValue("group"), req)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	origin.WriteJSON(w, http.StatusOK, g)
}

// follow writes events, one a line: those recorded and, with ?follow=1, those
// to come; with ?node=NODE only that node's.
func (s *server) follow(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	only := strings.ToLower(strings.ReplaceAll(q.Get("node"), ":", "-"))
	following := q.Get("follow") == "1"
	rc := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	setWriteDeadline(w, answerTime)
	begun := func() {
		if following {
			_ = rc.Flush() // the headers: the follower knows that it is one
		}
	}
	enc := json.NewEncoder(w)
	err := s.Events.Read(r.Context(), following, begun, func(e api.Event) error {
		if only != "" && e.Node != only {
			return nil
		}
		setWriteDeadline(w, answerTime)
		if err := enc.Encode(e); err != nil {
			return err
		}
		if following {
			return rc.Flush()
		}
		return nil
	})
	if err != nil && r.Context().Err() == nil {
		s.Log.Info("web: a follower of events is gone", "peer", r.RemoteAddr, "err", err)
	}
}

//go:embed page.html
var pageText string

// page shows nodes and images to people.
func (s *server) page(w http.ResponseWriter, r *http.Request) {
	setWriteDeadline(w, answerTime)
	tags, err := s.Tags(r.Context())
	if err != nil {
		s.fail(w, r, err)
		return
	}
	t, err := template.New("page").Funcs(template.FuncMap{"ago": ago}).Parse(pageText)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	if err := t.Execute(w, map[string]any{"Nodes": s.Nodes.List(), "Tags": tags, "Now": time.Now().Format(time.DateTime)}); err != nil {
		s.Log.Debug("web: page", "err", err)
	}
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return time.Since(t).Truncate(time.Second).String() + " ago"
}
