/* SPDX-License-Identifier: Apache-2.0
 *
 * Gray frames of 10 bits to HEVC (x265) and back (libde265), for codec/hevc.c only.
 *
 * The stream: NAL units, each behind its length (4 bytes, big-endian): VPS, SPS, PPS, and an IDR slice a frame; nothing else, and nothing behind
 * them. Decoding of HEVC is exact: the same samples from every decoder on every machine.
 *
 * Threads: any, many at once. Both libraries take memory of their own while a call lasts; x265 starts a thread for that time.
 */
#ifndef KVCI_HEVC_VIDEO_H
#define KVCI_HEVC_VIDEO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvcask/status.h>

enum {
	HEVC_SAMPLE_BITS = 10,
	HEVC_UNIT = 16, /* the side of a coding tree unit */
	HEVC_SIDE_MAX = 8192,
	HEVC_QP_MAX = 51,
};

struct kvci_hevc_frames {
	uint32_t width, height, count; /* sides: multiples of HEVC_UNIT, to HEVC_SIDE_MAX */
};

/* Called for each frame in order: fills, or takes, height rows of width samples, `stride` apart. */
typedef void (*kvci_hevc_frame_fn)(void *context, uint32_t frame, uint16_t *samples, size_t stride);

/* `samples`: room for one frame. 0: x265 could not, or `room` is too small. */
size_t kvci_hevc_video_encode(const struct kvci_hevc_frames *frames, uint32_t qp, bool thorough, kvci_hevc_frame_fn fill, void *context,
                              uint16_t *samples, uint8_t *out, size_t room);

/* Untrusted bytes: they must be what is said above, of exactly these frames, or they are CORRUPT; what libde265 conceals is, too. */
kvc_status_t kvci_hevc_video_decode(const struct kvci_hevc_frames *frames, const uint8_t *stream, size_t bytes, kvci_hevc_frame_fn take,
                                    void *context);

#endif
