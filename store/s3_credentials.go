package store

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// credentials returns the keys of the options, or the chain of places to search.
func (o *S3Options) credentials() *credentials.Credentials {
	if o.AccessKey != "" {
		return credentials.NewStaticV4(o.AccessKey, o.SecretKey, o.SessionToken)
	}
	return credentials.New(&credentialChain{profile: o.Profile})
}

// A credentialsError says that no credentials were found, and why.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }

// A credentialChain takes the first place that is set up, and its error if that
// has one. (The chain of minio-go goes on to the next place, and from the last to
// requests without a signature.)
type credentialChain struct {
	profile string
	current credentials.Provider // the one that answered last
}

// Retrieve finds the keys.
func (c *credentialChain) Retrieve() (credentials.Value, error) {
	return c.RetrieveWithCredContext(nil)
}

// RetrieveWithCredContext finds the keys.
func (c *credentialChain) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	value, err := c.retrieve(cc)
	if err != nil {
		return value, &credentialsError{err}
	}
	return value, nil
}

func (c *credentialChain) retrieve(cc *credentials.CredContext) (credentials.Value, error) {
	get := func(p credentials.Provider) (credentials.Value, error) {
		c.current = p
		v, err := p.RetrieveWithCredContext(cc)
		if err == nil && (v.AccessKeyID == "" || v.SecretAccessKey == "") {
			err = errors.New("it holds no keys")
		}
		return v, err
	}
	switch {
	case os.Getenv("AWS_ACCESS_KEY_ID") != "":
		v, err := get(&credentials.EnvAWS{})
		if err != nil {
			err = errors.New("AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not: set both")
		}
		return v, err
	case os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE") != "":
		v, err := get(&credentials.IAM{Client: &http.Client{Timeout: 10 * time.Second}})
		if err != nil {
			err = fmt.Errorf("no credentials for the web identity in AWS_WEB_IDENTITY_TOKEN_FILE: check AWS_ROLE_ARN and the role's trust: %w", err)
		}
		return v, err
	}
	access, secret, token, ok, err := awsKeys(c.profile)
	var v credentials.Value
	switch {
	case err != nil:
		return v, err
	case ok && (access == "" || secret == ""):
		return v, fmt.Errorf("profile %q has one of aws_access_key_id and aws_secret_access_key, and not the other: set both", cmp.Or(c.profile, "default"))
	case ok:
		return get(&credentials.Static{Value: credentials.Value{AccessKeyID: access, SecretAccessKey: secret, SessionToken: token, SignerType: credentials.SignatureV4}})
	}
	// It knows other ways that a profile may name.
	v, err = get(&credentials.FileAWSCredentials{Profile: c.profile})
	switch {
	case err == nil:
		return v, nil
	case c.profile != "":
		return v, fmt.Errorf("no credentials in profile %q of the AWS config and credentials files: check AWS_PROFILE (for a profile that assumes a role, see aws configure export-credentials): %w", c.profile, err)
	case !errors.Is(err, fs.ErrNotExist) && os.Getenv("AWS_SHARED_CREDENTIALS_FILE") != "":
		return v, fmt.Errorf("no credentials in AWS_SHARED_CREDENTIALS_FILE: %w", err)
	}
	container := cmp.Or(os.Getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"), os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI"))
	if container == "" && os.Getenv("AWS_EC2_METADATA_DISABLED") == "true" {
		return v, noCredentials(err)
	}
	// Where there is no such service, nobody may answer at its address.
	v, ierr := get(&credentials.IAM{Client: &http.Client{Timeout: 3 * time.Second}})
	if ierr != nil {
		return v, noCredentials(err, ierr)
	}
	return v, nil
}

func noCredentials(reasons ...error) error {
	return fmt.Errorf("no S3 credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (%w)",
		oneLine{errors.Join(reasons...)})
}

// oneLine is an error whose text has no line ends.
type oneLine struct{ error }

func (e oneLine) Error() string {
	return strings.ReplaceAll(strings.TrimSpace(e.error.Error()), "\n", "; ")
}

func (e oneLine) Unwrap() error { return e.error }

// IsExpired tells whether to search again.
func (c *credentialChain) IsExpired() bool { return c.current == nil || c.current.IsExpired() }
