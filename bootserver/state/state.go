// Package state keeps the boot server's records: an embedded etcd behind a
// handful of key-value calls. What it acknowledged survives SIGKILL and a
// power cut. It listens on no socket at all; a single member has no peers and
// its only client lives in this process.
package state

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

const (
	// startTimeout bounds the replay of the log after a crash. A start takes
	// about 0.3 s.
	startTimeout = 60 * time.Second
	// opTimeout bounds one call; a put takes 2 ms on an idle disk.
	opTimeout = 10 * time.Second
	// keepRevisions is how much history etcd keeps: none that we read, but
	// compaction wants a number.
	keepRevisions = "1000"
)

// Store is an open store. Its methods are safe for concurrent use.
type Store struct {
	etcd *embed.Etcd
	kv   *clientv3.Client
}

// Open opens or creates the store in dir, which this process must own alone.
// A nil log discards.
func Open(ctx context.Context, dir string, log *slog.Logger) (*Store, error) {
	// etcd warns about anything wider, and it is right.
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state: %v", err)
	}
	etcd, err := embed.StartEtcd(config(dir, log))
	if err != nil {
		return nil, fmt.Errorf("state: open %s: %v", dir, err)
	}
	s := &Store{etcd: etcd}
	select {
	case <-etcd.Server.ReadyNotify():
	case err = <-etcd.Err():
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-time.After(startTimeout):
		err = fmt.Errorf("not ready after %v", startTimeout)
	}
	if err != nil {
		etcd.Close()
		return nil, fmt.Errorf("state: open %s: %w", dir, err)
	}
	s.kv = v3client.New(etcd.Server)
	return s, nil
}

func config(dir string, log *slog.Logger) *embed.Config {
	c := embed.NewConfig()
	c.Dir = dir
	c.Name = "huck"
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	// No listeners: nobody but this process speaks to this member.
	c.ListenPeerUrls, c.ListenClientUrls = nil, nil
	// A lone member elects itself, so a short election only saves start time.
	c.TickMs, c.ElectionMs = 50, 250
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModeRevision, keepRevisions
	// The log is small; etcd's default of 100000 entries would be replayed at
	// every start.
	c.SnapshotCount = 10000
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(zapCore{log: orDiscard(log)}))
	return c
}

func orDiscard(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}

// Run returns when the store fails beneath us, with the cause, or with nil
// when ctx ends.
func (s *Store) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.etcd.Err():
		return fmt.Errorf("state: %v", err)
	case <-s.etcd.Server.StopNotify():
		return fmt.Errorf("state: etcd stopped by itself")
	}
}

// Close ends the store and waits for its goroutines.
func (s *Store) Close() error {
	err := s.kv.Close()
	s.etcd.Close()
	if err != nil && err != context.Canceled {
		return fmt.Errorf("state: close: %v", err)
	}
	return nil
}

// Get returns the value of key, or nil if there is none.
func (s *Store) Get(ctx context.Context, key string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	r, err := s.kv.Get(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("state: get %s: %w", key, err)
	}
	if len(r.Kvs) == 0 {
		return nil, nil
	}
	return r.Kvs[0].Value, nil
}

// Put stores value under key; when it returns nil, the value is on the disk.
func (s *Store) Put(ctx context.Context, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	if _, err := s.kv.Put(ctx, key, string(value)); err != nil {
		return fmt.Errorf("state: put %s: %w", key, err)
	}
	return nil
}

// Delete removes key, if it is there.
func (s *Store) Delete(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	if _, err := s.kv.Delete(ctx, key); err != nil {
		return fmt.Errorf("state: delete %s: %w", key, err)
	}
	return nil
}

// List returns all keys with the given prefix and their values.
func (s *Store) List(ctx context.Context, prefix string) (map[string][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	r, err := s.kv.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("state: list %s: %w", prefix, err)
	}
	m := make(map[string][]byte, len(r.Kvs))
	for _, kv := range r.Kvs {
		m[string(kv.Key)] = kv.Value
	}
	return m, nil
}
