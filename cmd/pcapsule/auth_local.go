package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"pcapsule/hub"
	"pcapsule/internal/api"
	"pcapsule/store"
)

// A localUser is somebody whom a hub on one machine lets in.
type localUser struct {
	name     string
	uid, gid int
	owner    bool // may do everything; others do not speak for nodes
	token    string
	remote   bool // of no user of this machine, but of who has --token-file
}

// localAuth lets in who comes with a token of its users.
type localAuth struct {
	users []localUser
}

// minToken is how long a token of --token-file has to be.
const minToken = 22 // 128 bits in base64

// newLocalAuth is for the user who runs the hub, whom sudo ran it for, and those
// that --for names.
func newLocalAuth(c *cli.Context) (*localAuth, error) {
	self := localUser{name: "uid " + strconv.Itoa(os.Geteuid()), uid: os.Geteuid(), gid: os.Getegid(), owner: true}
	if u, err := user.Current(); err == nil {
		self.name = u.Username
	}
	a := &localAuth{users: []localUser{self}}
	names := c.StringSlice("for")
	if uid := os.Getenv("SUDO_UID"); uid != "" && os.Geteuid() == 0 {
		if u, err := user.LookupId(uid); err == nil {
			names = append(names, u.Username)
		}
	}
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			return nil, usagef("--for %s: there is no such user on this machine", name)
		}
		l := localUser{name: u.Username}
		if l.uid, err = strconv.Atoi(u.Uid); err == nil {
			l.gid, err = strconv.Atoi(u.Gid)
		}
		if err != nil {
			return nil, fmt.Errorf("--for %s: %w", name, err)
		}
		if a.has(l.uid) {
			continue
		}
		if self.uid != 0 {
			return nil, usagef("--for %s: only root can write a file for another user: start the hub with sudo", name)
		}
		a.users = append(a.users, l)
	}
	if name := c.String("token-file"); name != "" {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("--token-file: %w", err)
		}
		token := strings.TrimSpace(string(b))
		if len(token) < minToken || strings.ContainsAny(token, " \t\r\n") {
			return nil, fmt.Errorf("--token-file %s: want one word of at least %d characters, as `openssl rand -hex 32` makes it", name, minToken)
		}
		a.users = append(a.users, localUser{name: "who has " + name, uid: -1, owner: true, remote: true, token: token})
	}
	for i := range a.users {
		if a.users[i].remote {
			continue
		}
		secret := make([]byte, 32)
		if _, err := rand.Read(secret); err != nil {
			return nil, err
		}
		a.users[i].token = base64.RawURLEncoding.EncodeToString(secret)
	}
	return a, nil
}

func (a *localAuth) has(uid int) bool {
	for _, u := range a.users {
		if u.uid == uid {
			return true
		}
	}
	return false
}

// authorise is hub.Config.Authorise.
func (a *localAuth) authorise(r *http.Request, role hub.Role) (*hub.Identity, error) {
	switch p := r.URL.Path; {
	case p == "/healthz", p == "/readyz":
		return nil, nil
	case strings.HasPrefix(p, store.GrantPath): // the grant in the URL is the permission
		return nil, nil
	}
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	u := a.whose(token)
	if u == nil {
		return nil, &api.Error{Status: http.StatusUnauthorized, Code: api.CodeUnauthenticated, Message: fmt.Sprintf(
			"this hub is for %s on its machine, who find it by a file there: run the command as one of them, or let root start the hub with --for USER", a.names())}
	}
	id := &hub.Identity{User: u.name, Role: role}
	switch {
	case u.owner:
		id.Role = hub.Owner
	case role == hub.Agent:
		return id, &api.Error{Status: http.StatusForbidden, Code: api.CodeForbidden, Message: fmt.Sprintf("%s may use this hub, and not record for it: run the agent as root, or as who started the hub", u.name)}
	case role == hub.Part:
		id.Role = hub.Operator
	}
	return id, nil
}

// whose is the user of a token, or nil.
func (a *localAuth) whose(token string) (found *localUser) {
	sum := sha256.Sum256([]byte(token))
	for i := range a.users {
		want := sha256.Sum256([]byte(a.users[i].token))
		if subtle.ConstantTimeCompare(sum[:], want[:]) == 1 && a.users[i].token != "" {
			found = &a.users[i]
		}
	}
	return found
}

func (a *localAuth) names() string {
	names := make([]string, 0, len(a.users)+1)
	for _, u := range a.users {
		if !u.remote {
			names = append(names, u.name)
		}
	}
	if !a.has(0) {
		names = append(names, "root")
	}
	return strings.Join(names, " and ")
}

// localCertificate makes the certificate by which users of this machine know a hub
// that runs in this process, also in PEM.
func localCertificate() (*tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: api.LocalName}, DNSNames: []string{api.LocalName},
		NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(50, 0, 0), // the process's own: no clock makes it invalid
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
