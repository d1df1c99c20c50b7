package bootos

import (
	"errors"
	"fmt"
	"strings"
)

// GRUB's script language, as far as configurations use it (GNU GRUB manual,
// section "Writing full configuration files directly"): words with '…', "…",
// \ and $var; simple commands; if, while, until, for; functions and { blocks }
// as the last argument of menuentry and submenu.

// part is a piece of a word: text or a variable.
type part struct {
	text     string
	variable bool
	quoted   bool // not split at blanks after expansion
}

type word []part

// literal is the word's text if it contains no quotes and no variables.
func (w word) literal() string {
	if len(w) == 1 && !w[0].variable && !w[0].quoted {
		return w[0].text
	}
	return ""
}

// statement is one of: a command with words (and a block), an if, a loop.
type statement struct {
	words []word
	block []statement // of menuentry, submenu, function

	conds  [][]statement // if and elif; conds[0] of a loop
	bodies [][]statement // as many as conds, and one more for else
	loop   string        // "while", "until", "for"; words are the loop's
}

type token struct {
	word word
	end  byte // ';' or '\n' or 0 for a word
}

var errSyntax = errors.New("syntax error")

// lex cuts a script into words and ends of commands.
func lex(s string) ([]token, error) {
	var toks []token
	var w word
	var run []byte // text of the last part of w so far
	started := false
	settle := func() {
		if n := len(w); n > 0 && !w[n-1].variable {
			w[n-1].text = string(run)
		}
		run = run[:0]
	}
	add := func(p part) {
		if n := len(w); n == 0 || p.variable || w[n-1].variable || w[n-1].quoted != p.quoted {
			settle()
			w = append(w, p)
		}
		if !p.variable {
			run = append(run, p.text...)
		}
		started = true
	}
	finish := func() {
		settle()
		if started {
			toks = append(toks, token{word: w})
		}
		w, started = nil, false
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\n' || c == ';':
			finish()
			toks = append(toks, token{end: c})
		case c == ' ' || c == '\t' || c == '\r':
			finish()
		case c == '#' && !started:
			for i+1 < len(s) && s[i+1] != '\n' {
				i++
			}
		case (c == '{' || c == '}') && !started && (i+1 == len(s) || strings.IndexByte(" \t\r\n;", s[i+1]) >= 0):
			add(part{text: s[i : i+1]})
			finish()
		case c == '\\':
			i++
			if i < len(s) && s[i] != '\n' {
				add(part{text: s[i : i+1], quoted: true})
			}
		case c == '\'':
			n := strings.IndexByte(s[i+1:], '\'')
			if n < 0 {
				return nil, fmt.Errorf("%w: a ' without its partner", errSyntax)
			}
			add(part{text: s[i+1 : i+1+n], quoted: true})
			i += n + 1
		case c == '"':
			n, err := lexDouble(s[i+1:], add)
			if err != nil {
				return nil, err
			}
			i += n
		case c == '$':
			name, n := variable(s[i+1:])
			if n == 0 {
				add(part{text: "$"})
			} else {
				add(part{text: name, variable: true})
			}
			i += n
		default:
			add(part{text: s[i : i+1]})
		}
	}
	finish()
	return toks, nil
}

// lexDouble reads up to the closing quote and returns how far that was.
func lexDouble(s string, add func(part)) (int, error) {
	add(part{quoted: true})
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return i + 1, nil
		case c == '\\' && i+1 < len(s) && strings.IndexByte("$\"\\\n", s[i+1]) >= 0:
			i++
			if s[i] != '\n' {
				add(part{text: s[i : i+1], quoted: true})
			}
		case c == '$':
			name, n := variable(s[i+1:])
			if n == 0 {
				add(part{text: "$", quoted: true})
			} else {
				add(part{text: name, variable: true, quoted: true})
			}
			i += n
		default:
			add(part{text: s[i : i+1], quoted: true})
		}
	}
	return 0, fmt.Errorf(`%w: a " without its partner`, errSyntax)
}

// variable reads NAME, {NAME}, or one of ? @ * # and a digit after a '$'.
func variable(s string) (name string, n int) {
	if s == "" {
		return "", 0
	}
	if s[0] == '{' {
		end := strings.IndexByte(s, '}')
		if end < 2 {
			return "", 0
		}
		return s[1:end], end + 1
	}
	if strings.IndexByte("?@*#0123456789", s[0]) >= 0 {
		return s[:1], 1
	}
	for n < len(s) && (s[n] == '_' || s[n] >= 'a' && s[n] <= 'z' || s[n] >= 'A' && s[n] <= 'Z' || s[n] >= '0' && s[n] <= '9') {
		n++
	}
	return s[:n], n
}

// maxNesting bounds blocks within blocks; real ones stop at 4.
const maxNesting = 64

type grubParser struct {
	toks  []token
	depth int
}

func parseGRUB(s string) ([]statement, error) {
	toks, err := lex(s)
	if err != nil {
		return nil, err
	}
	p := &grubParser{toks: toks}
	body, end, err := p.list()
	if err == nil && end != "" {
		err = fmt.Errorf("%w: unexpected %s", errSyntax, end)
	}
	return body, err
}

// list reads statements up to the end or a word that closes a construct,
// which it consumes and returns.
func (p *grubParser) list(closers ...string) (body []statement, closer string, err error) {
	if p.depth++; p.depth > maxNesting {
		return nil, "", fmt.Errorf("%w: nested more than %d deep", errSyntax, maxNesting)
	}
	defer func() { p.depth-- }()
	for len(p.toks) > 0 {
		t := p.toks[0]
		if t.end != 0 {
			p.toks = p.toks[1:]
			continue
		}
		lit := t.word.literal()
		for _, c := range closers {
			if lit == c {
				p.toks = p.toks[1:]
				return body, c, nil
			}
		}
		st, err := p.statement(lit)
		if err != nil {
			return nil, "", err
		}
		body = append(body, st)
	}
	if len(closers) > 0 {
		return nil, "", fmt.Errorf("%w: no %s before the end", errSyntax, strings.Join(closers, " or "))
	}
	return body, "", nil
}

func (p *grubParser) statement(lit string) (statement, error) {
	switch lit {
	case "if":
		p.toks = p.toks[1:]
		return p.ifStatement()
	case "while", "until":
		p.toks = p.toks[1:]
		return p.loop(lit, nil)
	case "for":
		p.toks = p.toks[1:]
		return p.loop(lit, p.words())
	case "then", "elif", "else", "fi", "do", "done", "}":
		return statement{}, fmt.Errorf("%w: unexpected %s", errSyntax, lit)
	}
	return p.command()
}

func (p *grubParser) ifStatement() (st statement, err error) {
	for {
		cond, _, err := p.list("then")
		if err != nil {
			return st, err
		}
		body, closer, err := p.list("elif", "else", "fi")
		if err != nil {
			return st, err
		}
		st.conds, st.bodies = append(st.conds, cond), append(st.bodies, body)
		switch closer {
		case "fi":
			return st, nil
		case "else":
			body, _, err := p.list("fi")
			st.bodies = append(st.bodies, body)
			return st, err
		}
	}
}

func (p *grubParser) loop(kind string, words []word) (st statement, err error) {
	st = statement{loop: kind, words: words}
	cond, _, err := p.list("do")
	if err != nil {
		return st, err
	}
	body, _, err := p.list("done")
	st.conds, st.bodies = [][]statement{cond}, [][]statement{body}
	return st, err
}

// words reads the rest of a simple command.
func (p *grubParser) words() (ws []word) {
	for len(p.toks) > 0 && p.toks[0].end == 0 {
		ws = append(ws, p.toks[0].word)
		p.toks = p.toks[1:]
	}
	return ws
}

// command reads words and, after menuentry, submenu and function, a block.
func (p *grubParser) command() (st statement, err error) {
	switch p.toks[0].word.literal() {
	case "menuentry", "submenu", "function":
	default:
		st.words = p.words()
		return st, nil
	}
	for len(p.toks) > 0 {
		t := p.toks[0]
		p.toks = p.toks[1:]
		if t.end == ';' {
			break
		}
		if t.end != 0 {
			// GRUB wants the { on the same line, except for functions.
			if st.words[0].literal() == "function" {
				continue
			}
			break
		}
		if t.word.literal() == "{" {
			st.block, _, err = p.list("}")
			return st, err
		}
		st.words = append(st.words, t.word)
	}
	return st, fmt.Errorf("%w: %s without a block", errSyntax, st.words[0].literal())
}
