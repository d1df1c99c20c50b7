package lvm

import (
	"errors"
	"fmt"
	"strconv"
)

const (
	// maxNodes bounds the sections and assignments of a text, and so its memory
	// to about 50 MiB. A logical volume takes some twenty of them.
	maxNodes = 200_000
	// maxDepth bounds sections within sections; LVM needs four.
	maxDepth = 8
)

// section is a section of LVM's configuration text (lvm.conf(5), which
// describes the syntax that metadata share): name { … }.
type section struct {
	name string
	sub  []*section
	vars map[string][]value
}

// value is one element of an assignment: a string or a number.
type value struct {
	text   string
	number int64
	isText bool
}

// parseConfig reads a text. The result is the nameless section around it all.
func parseConfig(text string) (*section, error) {
	p := &parser{rest: text}
	top := &section{vars: make(map[string][]value)}
	for {
		if err := p.next(); err != nil {
			return nil, err
		}
		if p.token == "" {
			return top, nil
		}
		if err := p.item(top, 0); err != nil {
			return nil, err
		}
	}
}

// child returns the section of the given name in s; nil if there is none.
func (s *section) child(name string) *section {
	for _, c := range s.sub {
		if c.name == name {
			return c
		}
	}
	return nil
}

// integer returns the number that name stands for, which must be one from 0 to
// limit.
func (s *section) integer(name string, limit int64) (int64, error) {
	v := s.vars[name]
	if len(v) != 1 || v[0].isText || v[0].number < 0 || v[0].number > limit {
		return 0, fmt.Errorf("no sound %s in section %s", name, s.name)
	}
	return v[0].number, nil
}

// text returns the string that name stands for; empty if it is none.
func (s *section) text(name string) string {
	if v := s.vars[name]; len(v) == 1 && v[0].isText {
		return v[0].text
	}
	return ""
}

// parser takes a text apart. A token is a bracket, an equals sign, a comma, a
// bare word or a string, which begins with its quote; empty at the end.
type parser struct {
	rest  string
	token string
	nodes int
}

var errSyntax = errors.New("syntax error")

// item reads a section or an assignment, whose first token is the current one.
func (p *parser) item(in *section, depth int) error {
	name := p.token
	if !bareWord(name[0]) {
		return errSyntax
	}
	if p.nodes++; p.nodes > maxNodes || depth > maxDepth {
		return errors.New("too many or too deep sections")
	}
	if err := p.next(); err != nil {
		return err
	}
	switch p.token {
	case "{":
		s := &section{name: name, vars: make(map[string][]value)}
		in.sub = append(in.sub, s)
		return p.body(s, depth)
	case "=":
		if _, twice := in.vars[name]; twice {
			return fmt.Errorf("%s stands twice in section %s", name, in.name)
		}
		v, err := p.values()
		in.vars[name] = v
		return err
	}
	return errSyntax
}

// body reads what is in a section, up to its end.
func (p *parser) body(s *section, depth int) error {
	for {
		if err := p.next(); err != nil {
			return err
		}
		switch p.token {
		case "":
			return errSyntax
		case "}":
			return s.unique()
		}
		if err := p.item(s, depth+1); err != nil {
			return err
		}
	}
}

// unique makes sure that no two sections in s have one name.
func (s *section) unique() error {
	seen := make(map[string]bool, len(s.sub))
	for _, c := range s.sub {
		if seen[c.name] {
			return fmt.Errorf("section %s stands twice in section %s", c.name, s.name)
		}
		seen[c.name] = true
	}
	return nil
}

// values reads what follows an equals sign.
func (p *parser) values() ([]value, error) {
	if err := p.next(); err != nil {
		return nil, err
	}
	if p.token != "[" {
		v, err := p.value()
		return []value{v}, err
	}
	var all []value
	for {
		if err := p.next(); err != nil {
			return nil, err
		}
		if p.token == "]" {
			return all, nil
		}
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		if p.nodes++; p.nodes > maxNodes {
			return nil, errors.New("too many values")
		}
		all = append(all, v)
		if err := p.next(); err != nil {
			return nil, err
		}
		switch p.token {
		case "]":
			return all, nil
		case ",":
		default:
			return nil, errSyntax
		}
	}
}

// value is the value that the current token is.
func (p *parser) value() (value, error) {
	if p.token == "" {
		return value{}, errSyntax
	}
	if p.token[0] == '"' {
		return value{text: p.token[1:], isText: true}, nil
	}
	n, err := strconv.ParseInt(p.token, 10, 64)
	if err != nil {
		return value{}, errSyntax
	}
	return value{number: n}, nil
}

// next reads the next token.
func (p *parser) next() error {
	p.skip()
	if p.rest == "" {
		p.token = ""
		return nil
	}
	n := 1
	switch c := p.rest[0]; {
	case c == '"':
		return p.quoted()
	case c == '{' || c == '}' || c == '[' || c == ']' || c == '=' || c == ',':
	case bareWord(c):
		for n < len(p.rest) && bareWord(p.rest[n]) {
			n++
		}
	default:
		return errSyntax
	}
	p.token, p.rest = p.rest[:n], p.rest[n:]
	return nil
}

// skip passes over white space and comments.
func (p *parser) skip() {
	for i := 0; i < len(p.rest); i++ {
		switch c := p.rest[i]; c {
		case ' ', '\t', '\n', '\r':
		case '#':
			for i < len(p.rest) && p.rest[i] != '\n' {
				i++
			}
		default:
			p.rest = p.rest[i:]
			return
		}
	}
	p.rest = ""
}

// quoted reads a string. A backslash takes the next character as it is.
func (p *parser) quoted() error {
	text := []byte{'"'}
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == '"':
			p.token, p.rest = string(text), p.rest[i+1:]
			return nil
		case c == '\\' && i+1 < len(p.rest):
			i++
			text = append(text, p.rest[i])
		default:
			text = append(text, c)
		}
	}
	return errSyntax
}

// bareWord tells the characters of names and numbers (lvm(8), VALID NAMES).
func bareWord(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '.' || c == '-' || c == '+'
}
