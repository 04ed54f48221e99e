/* SPDX-License-Identifier: Apache-2.0
 *
 * kvcask status codes: what a call answers, grouped by what its caller does next.
 *
 *   class     what the caller does
 *   OK        goes on
 *   MISS      computes the KV itself; nothing is wrong
 *   RETRY     may ask again later; nothing is wrong with the request
 *   DEGRADE   takes it as a miss; something is wrong with a device, a peer or the stored bytes
 *   CALLER    repairs its call: the arguments or the state it was made in are wrong
 *   FATAL     stops using this handle
 *
 * A load or match with valid arguments returns OK, MISS, RETRY or DEGRADE, never the others.
 * Every status lives in this one table; parsers, logs, metrics and the Python package read it from here.
 * The numbers are part of the wire protocol and of the library's ABI: they never change meaning.
 *
 * Threads: everything here is pure and may be called from any thread.
 */
#ifndef KVCASK_STATUS_H
#define KVCASK_STATUS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

typedef int32_t kvc_status_t;

enum kvc_status_class {
	KVC_CLASS_OK = 0,
	KVC_CLASS_MISS = 1,
	KVC_CLASS_RETRY = 2,
	KVC_CLASS_DEGRADE = 3,
	KVC_CLASS_CALLER = 4,
	KVC_CLASS_FATAL = 5,
};

/* X(name, number, class, text). The number is class * 100 + a running one. */
#define KVC_STATUS_TABLE(X)                                                                        \
	X(OK, 0, OK, "success")                                                                    \
	X(MISS, 100, MISS, "not stored")                                                           \
	X(DROPPED, 101, MISS, "was stored and has been evicted or dropped since")                  \
	X(STALE_EPOCH, 102, MISS, "stored before the space's epoch was raised")                    \
	X(BUSY, 200, RETRY, "a bounded queue is full")                                             \
	X(NO_SPACE, 201, RETRY, "no memory can be freed for it at present")                        \
	X(PENDING, 202, RETRY, "the answer has not arrived yet")                                   \
	X(IN_FLIGHT, 203, RETRY, "another client is storing this block")                           \
	X(LOADING, 204, RETRY, "the index is still being loaded")                                  \
	X(OVER_CAP, 205, RETRY, "the client's share of leased and reserved memory is used up")     \
	X(IO, 300, DEGRADE, "the device reported an error")                                        \
	X(CORRUPT, 301, DEGRADE, "stored bytes fail their checksum")                               \
	X(GONE, 302, DEGRADE, "the daemon or peer has gone")                                       \
	X(TIMED_OUT, 303, DEGRADE, "the deadline passed")                                          \
	X(CIRCUIT_OPEN, 304, DEGRADE, "not tried: it failed a moment ago")                         \
	X(DISK_FULL, 305, DEGRADE, "the disk is full")                                             \
	X(CANCELED, 306, DEGRADE, "canceled before it was done")                                   \
	X(INVALID, 400, CALLER, "an argument is not valid")                                        \
	X(TOO_BIG, 401, CALLER, "larger than the limit")                                           \
	X(NOT_FOUND, 402, CALLER, "no such object")                                                \
	X(EXISTS, 403, CALLER, "exists already")                                                   \
	X(DENIED, 404, CALLER, "permission denied")                                                \
	X(FORM_MISMATCH, 405, CALLER, "the form is not the space's")                               \
	X(UNSUPPORTED, 406, CALLER, "not supported")                                               \
	X(CONFIG, 407, CALLER, "the configuration is wrong")                                       \
	X(IN_USE, 408, CALLER, "in use by another owner")                                          \
	X(PROTOCOL, 409, CALLER, "malformed or out-of-order message")                              \
	X(NO_MEMORY, 500, FATAL, "out of memory")                                                  \
	X(VERSION, 501, FATAL, "the other side speaks another version")                            \
	X(INTERNAL, 502, FATAL, "a bug in kvcask")

enum {
#define KVC_STATUS_ENUM(name, number, class_, text) KVC_##name = number,
	KVC_STATUS_TABLE(KVC_STATUS_ENUM)
#undef KVC_STATUS_ENUM
};

/* The status's name without its prefix ("CORRUPT"), or "UNKNOWN". Static storage, never NULL. */
const char *kvc_status_name(kvc_status_t status);

/* One line for people, without a full stop. Static storage, never NULL. */
const char *kvc_status_text(kvc_status_t status);

/* The class; an unknown number is FATAL. */
enum kvc_status_class kvc_status_class(kvc_status_t status);

/* The status of an errno value; what has no better status is IO. kvc_status_from_errno(0) is OK. */
kvc_status_t kvc_status_from_errno(int error);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
