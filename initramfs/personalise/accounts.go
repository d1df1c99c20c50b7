package personalise

import (
	"fmt"
	"path"
	"strconv"
	"strings"
)

// account is a line of the system's /etc/passwd (passwd(5)).
type account struct {
	uid, gid int
	home     string
}

// user returns an account of the system.
func (a *applier) user(name string) (account, error) {
	if a.users == nil {
		b, err := a.read("/etc/passwd")
		if err != nil {
			return account{}, err
		}
		a.users = parseUsers(string(b))
	}
	u, ok := a.users[name]
	if !ok {
		return account{}, fmt.Errorf("the installed system has no user %s", name)
	}
	return u, nil
}

// parseUsers leaves out lines that make no sense, as getpwent(3) does. The
// first of a name counts.
func parseUsers(text string) map[string]account {
	users := map[string]account{}
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 7 || users[f[0]] != (account{}) || !path.IsAbs(f[5]) {
			continue
		}
		uid, err1 := number(f[2])
		gid, err2 := number(f[3])
		if err1 == nil && err2 == nil {
			users[f[0]] = account{uid, gid, path.Clean(f[5])}
		}
	}
	return users
}

// group returns the number of a group of the system (group(5)).
func (a *applier) group(name string) (int, error) {
	if a.groups == nil {
		b, err := a.read("/etc/group")
		if err != nil {
			return 0, err
		}
		a.groups = map[string]int{}
		for line := range strings.Lines(string(b)) {
			f := strings.Split(line, ":")
			if len(f) < 3 {
				continue
			}
			if n, err := number(f[2]); err == nil {
				a.groups[f[0]] = n
			}
		}
	}
	n, ok := a.groups[name]
	if !ok {
		return 0, fmt.Errorf("the installed system has no group %s", name)
	}
	return n, nil
}

// owner returns the numbers of a file's owner and group; both are root's where
// they are empty.
func (a *applier) owner(user, group string) (uid, gid int, err error) {
	if user != "" && user != "root" {
		if uid, err = number(user); err != nil {
			u, err := a.user(user)
			if err != nil {
				return 0, 0, err
			}
			uid = u.uid
		}
	}
	if group != "" && group != "root" {
		if gid, err = number(group); err != nil {
			if gid, err = a.group(group); err != nil {
				return 0, 0, err
			}
		}
	}
	return uid, gid, nil
}

// number reads a user's or group's number. The largest of 32 bits means "no
// change" to chown(2).
func number(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n == 1<<32-1 {
		err = strconv.ErrRange
	}
	return int(n), err
}
