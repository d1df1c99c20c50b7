package origin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"huck/imager/api"
	"huck/imager/image"
	"huck/imager/store"
)

// Authorizer decides whether a request may have an image. digest is zero when
// the request only resolves a reference.
type Authorizer func(r *http.Request, digest image.ID) error

// ErrUnauthorized is wrapped by an Authorizer's refusal; it is answered 403.
var ErrUnauthorized = errors.New("not authorised")

// Handler serves the paths under api.PathRefs and api.PathImages.
func (o *Origin) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+api.PathRefs+"{ref}", o.serveRef)
	for part, serve := range map[string]func(http.ResponseWriter, *http.Request, image.ID){
		"manifest": o.serveManifest, "map": o.serveMap, "chunks/{number}": o.serveChunk, "channel": o.serveChannel,
	} {
		mux.HandleFunc("GET "+api.PathImages+"{digest}/"+part, func(w http.ResponseWriter, r *http.Request) {
			digest, err := image.ParseID(r.PathValue("digest"))
			if err != nil {
				WriteError(w, http.StatusBadRequest, "bad_request", err)
				return
			}
			if !o.allowed(w, r, digest) {
				return
			}
			serve(w, r, digest)
		})
	}
	return mux
}

func (o *Origin) allowed(w http.ResponseWriter, r *http.Request, digest image.ID) bool {
	if o.cfg.Authorize == nil {
		return true
	}
	err := o.cfg.Authorize(r, digest)
	switch {
	case err == nil:
		return true
	case errors.Is(err, ErrUnauthorized):
		WriteError(w, http.StatusForbidden, "unauthorized", err)
	default:
		WriteError(w, http.StatusUnauthorized, "unauthenticated", err)
	}
	return false
}

func (o *Origin) serveRef(w http.ResponseWriter, r *http.Request) {
	if !o.allowed(w, r, image.ID{}) {
		return
	}
	ref := r.PathValue("ref")
	if _, err := image.ParseRef(ref); err != nil {
		WriteError(w, http.StatusBadRequest, "bad_request", err)
		return
	}
	res, err := o.Resolve(r.Context(), ref)
	if err != nil {
		o.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, res)
}

func (o *Origin) serveManifest(w http.ResponseWriter, r *http.Request, digest image.ID) {
	b, err := o.cfg.Store.Manifest(r.Context(), digest)
	if err != nil {
		o.fail(w, r, err)
		return
	}
	writeBytes(w, "application/json", b)
}

func (o *Origin) serveMap(w http.ResponseWriter, r *http.Request, digest image.ID) {
	b, err := o.cfg.Store.Map(r.Context(), digest)
	if err != nil {
		o.fail(w, r, err)
		return
	}
	writeBytes(w, "application/zstd", b)
}

func (o *Origin) serveChunk(w http.ResponseWriter, r *http.Request, digest image.ID) {
	i, err := o.image(r.Context(), digest)
	if err != nil {
		o.fail(w, r, err)
		return
	}
	n, err := strconv.ParseUint(r.PathValue("number"), 10, 32)
	if err != nil || n >= uint64(i.img.Layout.Chunks()) {
		WriteError(w, http.StatusNotFound, "not_found", errors.New("origin: image "+digest.Short()+" has no chunk number "+r.PathValue("number")))
		return
	}
	b, err := o.cfg.Store.Chunk(r.Context(), i.img.Layout.ID(uint32(n)))
	if err != nil {
		o.fail(w, r, err)
		return
	}
	if o.share.limit(time.Now()) == 0 || !beside(r, o.cfg.Interface) {
		writeBytes(w, "application/octet-stream", b)
		return
	}
	setHeader(w, "application/octet-stream", b)
	o.share.write(r.Context(), peer(r), w, b)
}

func (o *Origin) serveChannel(w http.ResponseWriter, r *http.Request, digest image.ID) {
	c, err := o.channel(r.Context(), digest)
	if errors.Is(err, errNoChannel) {
		if o.cfg.Cast != nil {
			o.log.Error("no channel, receivers will use HTTP", "image", digest.Short(), "err", err)
		}
		WriteError(w, http.StatusNotFound, "not_found", err)
		return
	}
	if err != nil {
		o.fail(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	WriteJSON(w, http.StatusOK, c)
}

// fail answers an error of the store: what is not there, what is damaged, and
// everything else, which may be better next time. A client that has gone hears
// nothing, and is no error.
func (o *Origin) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return
	}
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		err = fmt.Errorf("origin: raise the server's limit of open files (LimitNOFILE= or ulimit -n): %w", err)
	}
	var damaged *image.ChunkError
	switch {
	case errors.Is(err, store.ErrNotFound):
		WriteError(w, http.StatusNotFound, "not_found", err)
	case errors.As(err, &damaged), errors.Is(err, image.ErrFormat):
		o.log.Error("image is damaged", "path", r.URL.Path, "err", err)
		WriteError(w, http.StatusInternalServerError, "corrupt", err)
	default:
		o.log.Error("request failed", "path", r.URL.Path, "err", err)
		WriteError(w, http.StatusInternalServerError, "internal", err)
	}
}

func setHeader(w http.ResponseWriter, contentType string, b []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
}

func writeBytes(w http.ResponseWriter, contentType string, b []byte) {
	setHeader(w, contentType, b)
	// A client that went away is no fault of ours, and the only one Write has.
	_, _ = w.Write(b)
}

// WriteJSON answers v as JSON.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		WriteError(w, http.StatusInternalServerError, "internal", err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

// WriteError answers an api.Error.
func WriteError(w http.ResponseWriter, status int, code string, err error) {
	WriteJSON(w, status, &api.Error{Code: code, Message: err.Error()})
}
