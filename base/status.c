/* SPDX-License-Identifier: Apache-2.0
 * The status table as code: names, texts, classes, and what an errno means to us. */
#include <kvcask/status.h>

#include <errno.h>

const char *kvc_status_name(kvc_status_t status)
{
	switch (status) {
#define STATUS_CASE(name, number, class_, text)                                                    \
	case KVC_##name:                                                                           \
		return #name;
		KVC_STATUS_TABLE(STATUS_CASE)
#undef STATUS_CASE
	default:
		return "UNKNOWN";
	}
}

const char *kvc_status_text(kvc_status_t status)
{
	switch (status) {
#define STATUS_CASE(name, number, class_, text)                                                    \
	case KVC_##name:                                                                           \
		return text;
		KVC_STATUS_TABLE(STATUS_CASE)
#undef STATUS_CASE
	default:
		return "unknown status";
	}
}

enum kvc_status_class kvc_status_class(kvc_status_t status)
{
	switch (status) {
#define STATUS_CASE(name, number, class_, text)                                                    \
	case KVC_##name:; /* a declaration must not follow a label in C11 */                       \
		_Static_assert((number) / 100 == KVC_CLASS_##class_, #name " is numbered in its class"); \
		return KVC_CLASS_##class_;
		KVC_STATUS_TABLE(STATUS_CASE)
#undef STATUS_CASE
	default:
		return KVC_CLASS_FATAL;
	}
}

static const struct {
	int error;
	kvc_status_t status;
} status_of_errno[] = {
	{0, KVC_OK},
	{EAGAIN, KVC_BUSY},
	{EINTR, KVC_BUSY},
	{EBUSY, KVC_BUSY},
	{EMFILE, KVC_BUSY},
	{ENFILE, KVC_BUSY},
	{ENOBUFS, KVC_BUSY},
	{ENOMEM, KVC_NO_MEMORY},
	{ENOSPC, KVC_DISK_FULL},
	{EDQUOT, KVC_DISK_FULL},
	{EACCES, KVC_DENIED},
	{EPERM, KVC_DENIED},
	{EROFS, KVC_DENIED},
	{ENOENT, KVC_NOT_FOUND},
	{ENOTDIR, KVC_NOT_FOUND},
	{ENODEV, KVC_NOT_FOUND},
	{ENXIO, KVC_NOT_FOUND},
	{EEXIST, KVC_EXISTS},
	{EINVAL, KVC_INVALID},
	{EISDIR, KVC_INVALID},
	{ENAMETOOLONG, KVC_TOO_BIG},
	{E2BIG, KVC_TOO_BIG},
	{EFBIG, KVC_TOO_BIG},
	{EMSGSIZE, KVC_TOO_BIG},
	{EOVERFLOW, KVC_TOO_BIG},
	{ETIMEDOUT, KVC_TIMED_OUT},
	{ECONNREFUSED, KVC_GONE},
	{ECONNRESET, KVC_GONE},
	{ECONNABORTED, KVC_GONE},
	{ENOTCONN, KVC_GONE},
	{ESHUTDOWN, KVC_GONE},
	{EPIPE, KVC_GONE},
	{EADDRINUSE, KVC_IN_USE},
	{ETXTBSY, KVC_IN_USE},
	{ECANCELED, KVC_CANCELED},
	{ENOSYS, KVC_UNSUPPORTED},
	{EOPNOTSUPP, KVC_UNSUPPORTED},
	{EPROTO, KVC_PROTOCOL},
};

kvc_status_t kvc_status_from_errno(int error)
{
	for (unsigned i = 0; i < sizeof(status_of_errno) / sizeof(status_of_errno[0]); i++)
		if (status_of_errno[i].error == error)
			return status_of_errno[i].status;
	return KVC_IO;
}
