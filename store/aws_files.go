package store

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// awsFile is a shared config or credentials file of AWS's tools: settings by
// section and name. What a profile has in several sections of one name is put
// together; of a name that comes twice the later counts.
//
// It is read as these tools do, by line: a comment starts a line, or follows white
// space, so that a secret may hold '#' and ';'. Quotes are part of a value.
// Settings that are indented below one without a value are its own.
type awsFile map[string]awsSection

type awsSection map[string]awsSetting

type awsSetting struct {
	value  string
	nested map[string]string
}

// readAWSFile reads the file that variable names or, without it, the one of this
// name in the user's folder for AWS. A file that is not there is an empty one.
func readAWSFile(variable, name string) (awsFile, error) {
	path := os.Getenv(variable)
	if path == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, nil // a machine's account without a home has no profiles
		}
		path = filepath.Join(home, ".aws", name)
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		var f awsFile
		if f, err = parseAWSFile(string(b)); err == nil {
			return f, nil
		}
	}
	// Not wrapped: ErrNotExist and ErrForbidden are said of objects.
	return nil, fmt.Errorf("read the AWS %s file %s: %s", name, path, oneLine{err}.Error())
}

func parseAWSFile(text string) (awsFile, error) {
	f := awsFile{}
	var section awsSection
	var key string // of the setting before
	var indent int // of that
	for i, line := range strings.Split(strings.TrimPrefix(text, "\ufeff"), "\n") {
		line = strings.TrimRight(line, " \t\r")
		rest := strings.TrimLeft(line, " \t")
		depth := len(line) - len(rest)
		switch {
		case rest == "", rest[0] == '#', rest[0] == ';':
		case key != "" && depth > indent && rest[0] != '[':
			section.goOn(key, rest)
		case rest[0] == '[':
			name, after, closed := strings.Cut(rest[1:], "]")
			after = strings.TrimSpace(after)
			if !closed || after != "" && after[0] != '#' && after[0] != ';' {
				return nil, fmt.Errorf("line %d: %.40q is no name of a section in brackets", i+1, rest)
			}
			name, key = sectionName(name), ""
			if f[name] == nil {
				f[name] = awsSection{}
			}
			section = f[name]
		default:
			name, value, ok := cutSetting(rest)
			if !ok {
				return nil, fmt.Errorf("line %d is no setting: want name = value", i+1)
			}
			if section == nil {
				return nil, fmt.Errorf("line %d: a setting before the first section, as [default]", i+1)
			}
			key, indent = name, depth
			section[key] = awsSetting{value: value}
		}
	}
	return f, nil
}

// goOn takes in a line that is indented below the setting key.
func (s awsSection) goOn(key, line string) {
	setting := s[key]
	name, value, ok := cutSetting(line)
	if setting.value != "" || !ok {
		return // more of a value, of which none that is used here has more than a line
	}
	if setting.nested == nil {
		setting.nested = map[string]string{}
	}
	setting.nested[name] = value
	s[key] = setting
}

// cutSetting splits "name = value", and takes a comment from its end.
func cutSetting(line string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(line, "=")
	name = strings.ToLower(strings.TrimSpace(name))
	for i := range value {
		if (value[i] == '#' || value[i] == ';') && i > 0 && (value[i-1] == ' ' || value[i-1] == '\t') {
			value = value[:i]
			break
		}
	}
	return name, strings.TrimSpace(value), ok && name != ""
}

// sectionName is the name of a section as we look for it: one space between its
// kind and its own name, and that without quotes.
func sectionName(s string) string {
	s = unquote(strings.TrimSpace(s))
	for _, kind := range []string{"profile", "services", "sso-session"} {
		if name, ok := strings.CutPrefix(s, kind); ok && name != "" && strings.ContainsRune(" \t", rune(name[0])) {
			return kind + " " + unquote(strings.TrimSpace(name))
		}
	}
	return s
}

func unquote(s string) string {
	if len(s) >= 2 && (s[0] == '"' || s[0] == '\'') && s[len(s)-1] == s[0] {
		return s[1 : len(s)-1]
	}
	return s
}

// profile is a profile of a config file: of "default", the section with its kind
// counts before that without.
func (f awsFile) profile(name string) awsSection {
	name = cmp.Or(name, "default")
	if s, ok := f["profile "+name]; ok {
		return s
	}
	return f[name] // as other programs write it, too
}

// awsKeys finds the keys of a profile, in the credentials file first. ok tells
// whether it has any; other ways to get keys are not looked at.
func awsKeys(profile string) (access, secret, token string, ok bool, err error) {
	config, err := readAWSFile("AWS_CONFIG_FILE", "config")
	if err != nil {
		return "", "", "", false, err
	}
	creds, err := readAWSFile("AWS_SHARED_CREDENTIALS_FILE", "credentials")
	if err != nil {
		return "", "", "", false, err
	}
	name := cmp.Or(profile, "default")
	for _, s := range []awsSection{creds[name], config.profile(name)} {
		access, secret, token = s["aws_access_key_id"].value, s["aws_secret_access_key"].value, s["aws_session_token"].value
		if access != "" || secret != "" {
			return access, secret, token, true, nil
		}
	}
	return "", "", "", false, nil
}
