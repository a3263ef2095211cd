package store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"

	"github.com/minio/minio-go/v7"
)

// An s3Op is what was asked of the service: for messages.
type s3Op struct {
	verb       string
	permission string
}

var (
	opPut    = s3Op{"put", "s3:PutObject"}
	opGet    = s3Op{"get", "s3:GetObject"}
	opStat   = s3Op{"stat", "s3:GetObject, and s3:ListBucket where it says 'forbidden' for what is absent"}
	opList   = s3Op{"list", "s3:ListBucket"}
	opDelete = s3Op{"delete", "s3:DeleteObject"}

	opVersions = s3Op{"ask about versions", "s3:GetBucketVersioning"}
)

// An s3Error explains an answer of the service.
type s3Error struct {
	text   string // for people, with what to do
	kind   error  // what callers branch on, or nil
	cause  error
	region string // that the bucket is said to be in
}

func (e *s3Error) Error() string {
	var u *url.Error
	if errors.As(e.cause, &u) {
		return fmt.Sprintf("%s (%v)", e.text, u.Err) // the URL would say nothing new
	}
	return fmt.Sprintf("%s (%v)", e.text, e.cause)
}

func (e *s3Error) Unwrap() []error {
	if e.kind == nil {
		return []error{e.cause}
	}
	return []error{e.kind, e.cause}
}

// retryS3 tells whether an error may pass by itself.
func retryS3(err error) bool {
	var body bodyError
	var creds *credentialsError
	if errors.As(err, &body) || errors.As(err, &creds) || errors.Is(err, errUnsorted) {
		return false
	}
	if r := minio.ToErrorResponse(err); r.StatusCode != 0 {
		switch r.Code {
		case "ConditionalRequestConflict", "OperationAborted", "SlowDown", "SlowDownRead", "SlowDownWrite",
			"RequestTimeout", "Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestThrottled",
			"InternalError", "ServiceUnavailable":
			return true
		}
		return !NoSpaceCode(r.Code) && retryStatus(r.StatusCode)
	}
	var strange *answerError
	if errors.As(err, &strange) {
		return strange.status < 300 || retryStatus(strange.status)
	}
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsNotFound {
		return false
	}
	return tlsAdvice(err) == "" && isNetworkError(err)
}

func isNetworkError(err error) bool {
	var u *url.Error
	var n net.Error
	return errors.As(err, &u) || errors.As(err, &n) || strings.Contains(err.Error(), "EOF") ||
		errors.Is(err, syscall.ECONNRESET)
}

// NoSpaceCode tells whether an S3 service that answers with this error code has
// no room left. Most do so with a status that says something else.
func NoSpaceCode(code string) bool {
	switch code {
	case "QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull", "InsufficientCapacity":
		return true
	}
	return false
}

// explain says what err means and what can be done.
func (s *S3) explain(op s3Op, err error) error {
	r := minio.ToErrorResponse(err)
	e := &s3Error{cause: err, region: r.Region}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded) && r.StatusCode == 0 && !isTimeout(err):
		return err
	case r.StatusCode == 0:
		var strange *answerError
		if errors.As(err, &strange) {
			return s.explainAnswer(strange)
		}
		return s.explainNetwork(err)
	}
	if NoSpaceCode(r.Code) {
		e.text, e.kind = ErrNoSpace.Error()+": free some, or raise the quota", ErrNoSpace
		return e
	}
	if isLocked(op, r) {
		e.text, e.kind = "the object is locked, by the bucket's retention or a legal hold: it stays until the lock ends", ErrForbidden
		return e
	}
	switch r.Code {
	case "NoSuchKey":
		e.text = "the service says that there is no such object, and none was asked for"
		if op != opList {
			e.text, e.kind = "it is not there", ErrNotExist
		}
	case "NoSuchBucket":
		e.text = fmt.Sprintf("there is no bucket %q at %s: create it, or check its name and AWS_ENDPOINT_URL", s.opt.Bucket, s.opt.endpointName())
	case "PreconditionFailed":
		e.text, e.kind = "the key is taken", ErrExist
		if op != opPut {
			e.text, e.kind = "the object was replaced while it was read: something other than pcapsule writes to this store", nil
		}
	case "InvalidAccessKeyId", "InvalidToken", "InvalidClientTokenId", "XMinioInvalidAccessKeyID":
		e.text, e.kind = "the service does not know the access key: check AWS_ACCESS_KEY_ID or AWS_PROFILE", ErrForbidden
	case "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired":
		e.text, e.kind = "the credentials have expired: get new ones, as with aws sso login", ErrForbidden
	case "SignatureDoesNotMatch":
		e.text, e.kind = "the secret key does not match the access key: check AWS_SECRET_ACCESS_KEY", ErrForbidden
	case "RequestTimeTooSkewed":
		e.text, e.kind = "this machine's clock and that of the service differ by too much: set the time, as with NTP", ErrForbidden
	case "AuthorizationHeaderMalformed", "InvalidRegion", "PermanentRedirect", "Redirect", "TemporaryRedirect",
		"IllegalLocationConstraintException", "301 Moved Permanently", "307 Temporary Redirect":
		e.text = fmt.Sprintf("bucket %q is in another region than %s: set AWS_REGION", s.opt.Bucket, s.opt.Region)
		if r.Region != "" {
			e.text += " to " + r.Region
		}
	case "BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "ContentSHA256Mismatch":
		e.text, e.kind = "the bytes that arrived are not those announced", ErrChecksum
	case "InvalidObjectState":
		e.text = "the object is in cold storage: restore it first"
	case "InvalidBucketName":
		e.text = fmt.Sprintf("%q is no name of a bucket", s.opt.Bucket)
	default:
		s.explainStatus(op, r, e)
	}
	return e
}

// explainStatus is explain for codes that say no more than the status.
func (s *S3) explainStatus(op s3Op, r minio.ErrorResponse, e *s3Error) {
	switch {
	case r.StatusCode == http.StatusNotFound:
		e.text = fmt.Sprintf("%s answers 'not found': check AWS_ENDPOINT_URL", s.opt.endpointName())
	case r.StatusCode == http.StatusForbidden, r.StatusCode == http.StatusUnauthorized:
		e.text, e.kind = "the credentials do not allow it: they need "+op.permission, ErrForbidden
	case r.StatusCode == http.StatusInsufficientStorage:
		e.text, e.kind = ErrNoSpace.Error(), ErrNoSpace
	case r.StatusCode == http.StatusConflict:
		e.text = "another request to the same key was under way: try again"
	case retryStatus(r.StatusCode):
		e.text = fmt.Sprintf("%s is overloaded or failing: check the service, then try again", s.opt.endpointName())
	default:
		e.text = fmt.Sprintf("%s refuses the request with status %d %s: check that AWS_ENDPOINT_URL is that of an S3 service",
			s.opt.endpointName(), r.StatusCode, r.Code)
	}
}

// explainAnswer says what may have sent an answer that is none of an S3 service.
func (s *S3) explainAnswer(a *answerError) error {
	e := &s3Error{cause: a}
	at := s.opt.endpointName()
	switch {
	case a.secure:
		e.text = fmt.Sprintf("%s speaks TLS: write AWS_ENDPOINT_URL with https://", at)
	case a.location != nil:
		e.text = s.explainRedirect(a.location)
	case a.status == http.StatusRequestEntityTooLarge:
		e.text = fmt.Sprintf("a proxy before the S3 service at %s takes no bodies of this size: raise its limit, as with nginx's client_max_body_size, or go around it", at)
	case a.status == http.StatusUnauthorized, a.status == http.StatusForbidden, a.status == http.StatusProxyAuthRequired:
		e.text = fmt.Sprintf("a proxy, firewall or login page refuses the request in the place of the S3 service at %s: check AWS_ENDPOINT_URL, HTTPS_PROXY and the network", at)
	case a.status == http.StatusNotFound:
		e.text = fmt.Sprintf("what answers 'not found' at %s is no S3 service: check AWS_ENDPOINT_URL and the proxies in between", at)
	case retryStatus(a.status):
		e.text = fmt.Sprintf("%s, or a proxy before it, is overloaded or failing: check the service, then try again", at)
	default:
		e.text = fmt.Sprintf("what answers at %s is no S3 service, or a proxy or login page answers in its place: check AWS_ENDPOINT_URL, HTTPS_PROXY and the network", at)
	}
	return e
}

// explainRedirect says what to set. Nobody follows a redirect with a request that
// was signed for another host.
func (s *S3) explainRedirect(to *url.URL) string {
	host := strings.TrimPrefix(to.Host, s.opt.Bucket+".")
	from, _ := url.Parse(s.opt.endpointName())
	if from != nil && from.Scheme == to.Scheme && strings.EqualFold(from.Host, host) {
		return fmt.Sprintf("%s redirects to another path of its own, which no S3 service does: check AWS_ENDPOINT_URL", s.opt.endpointName())
	}
	return fmt.Sprintf("%s redirects to %s://%.100s, which was not followed: if that is the S3 service, set AWS_ENDPOINT_URL to it (and AWS_REGION to its region); if it is a login page, log in first",
		s.opt.endpointName(), to.Scheme, host)
}

func (s *S3) explainNetwork(err error) error {
	var dns *net.DNSError
	e := &s3Error{cause: err}
	advice := tlsAdvice(err)
	var body bodyError
	var creds *credentialsError
	switch {
	case errors.As(err, &body):
		return fmt.Errorf("read the body: %w", body.error)
	case errors.As(err, &creds):
		return err
	case advice != "":
		e.text = fmt.Sprintf("no secure connection to %s: %s", s.opt.endpointName(), advice)
	case errors.As(err, &dns) && dns.IsNotFound:
		e.text = fmt.Sprintf("there is no host %s: check AWS_ENDPOINT_URL", dns.Name)
	case errors.Is(err, syscall.ECONNREFUSED):
		e.text = fmt.Sprintf("nothing listens at %s: check AWS_ENDPOINT_URL, and that the service runs", s.opt.endpointName())
	case isTimeout(err):
		e.text = fmt.Sprintf("%s does not answer: check AWS_ENDPOINT_URL, the network and the service", s.opt.endpointName())
	case isNetworkError(err):
		e.text = fmt.Sprintf("the connection to %s failed: check AWS_ENDPOINT_URL, the network and the service", s.opt.endpointName())
	default:
		return err
	}
	return e
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &n) && n.Timeout() && !errors.Is(err, context.DeadlineExceeded)
}

// tlsAdvice says what to do about an error of TLS; it is empty for others.
func tlsAdvice(err error) string {
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	var verify *tls.CertificateVerificationError
	switch {
	case errors.As(err, &authority):
		return "its certificate is by no authority that is known here: set AWS_CA_BUNDLE to a file with that authority"
	case errors.As(err, &host):
		return "its certificate is for another name: check the host in AWS_ENDPOINT_URL"
	case errors.As(err, &invalid):
		return "its certificate is not valid: check this machine's clock and the certificate"
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return "it does not speak TLS: write AWS_ENDPOINT_URL with http://"
	case errors.As(err, &verify):
		return "its certificate does not verify"
	}
	return ""
}
