/* SPDX-License-Identifier: Apache-2.0
 *
 * x265 and libde265. What keeps a hostile stream small: lengths and kinds of all NAL units are checked and the frames' size is read from the SPS
 * before libde265 sees any of it, and its frames are ours: cleared, so that what it does not decode is the same each time, and of no other size.
 */
#include "codec/hevc_video.h"

#include <pthread.h>
#include <string.h>

#include <libde265/de265.h>
#include <x265.h>

#include "base/alloc.h"

enum {
	VIDEO_NAL_HEAD_BYTES = 2,
	VIDEO_NAL_IDR_W_RADL = 19,
	VIDEO_NAL_IDR_N_LP = 20,
	VIDEO_NAL_VPS = 32,
	VIDEO_NAL_SPS = 33,
	VIDEO_NAL_PPS = 34,
	VIDEO_PARAMETER_NALS = 3,
	VIDEO_PICTURE_PADDING = 64,
	VIDEO_PICTURES_MAX = 16,
};

/* Both libraries build tables when first used, and count their users, without a lock of their own everywhere. */
static pthread_mutex_t video_open_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- encode ------------------------------------------------------------------------------------------------------------------- */

static bool video_param_set(const x265_api *api, x265_param *param, const struct kvci_hevc_frames *frames, uint32_t qp, bool thorough)
{
	if (api->param_default_preset(param, thorough ? "medium" : "ultrafast", "psnr") != 0)
		return false;
	param->logLevel = X265_LOG_NONE;
	param->sourceWidth = (int)frames->width;
	param->sourceHeight = (int)frames->height;
	param->internalCsp = X265_CSP_I400;
	param->internalBitDepth = param->sourceBitDepth = HEVC_SAMPLE_BITS;
	param->fpsNum = param->fpsDenom = 1;
	param->totalFrames = (int)frames->count;
	/* Each frame by itself, in order, by one thread: the same bytes each time. */
	param->frameNumThreads = 1;
	param->bEnableWavefront = param->bDistributeModeAnalysis = param->bDistributeMotionEstimation = 0;
	param->lookaheadSlices = param->lookaheadDepth = param->bframes = param->scenecutThreshold = 0;
	param->keyframeMax = param->keyframeMin = 1;
	param->bOpenGOP = 0;
	param->bAnnexB = param->bRepeatHeaders = param->bEmitInfoSEI = param->bEmitHRDSEI = 0;
	/* Squared error is all that counts: no eye looks at this, and noise has no edges to smooth. */
	param->rc.rateControlMode = X265_RC_CQP;
	param->rc.qp = (int)qp;
	param->rc.ipFactor = param->rc.pbFactor = 1;
	param->rc.aqMode = X265_AQ_NONE;
	param->rc.cuTree = 0;
	param->psyRd = param->psyRdoq = 0;
	param->bEnableLoopFilter = param->bEnableStrongIntraSmoothing = 0;
	param->bEnableSAO = 1; /* gains little; without it x265 3.5 forgets some KiB when it closes */
	param->maxCUSize = HEVC_UNIT;
	return true;
}

/* x265 3.5 forgets one x265_param (1.2 KiB) for each encoder it opens: where a sanitizer looks, it is told not to. */
__attribute__((weak)) void __lsan_disable(void);
__attribute__((weak)) void __lsan_enable(void);

/* An encoder, and a picture that goes with it. */
static x265_encoder *video_open(const x265_api *api, const struct kvci_hevc_frames *frames, uint32_t qp, bool thorough, x265_picture *ret_picture)
{
	x265_param *param = api->param_alloc();
	x265_encoder *encoder = NULL;

	if (param == NULL)
		return NULL;
	pthread_mutex_lock(&video_open_lock);
	if (video_param_set(api, param, frames, qp, thorough)) {
		if (__lsan_disable != NULL && __lsan_enable != NULL)
			__lsan_disable();
		encoder = api->encoder_open(param);
		if (__lsan_disable != NULL && __lsan_enable != NULL)
			__lsan_enable();
		api->picture_init(param, ret_picture);
	}
	pthread_mutex_unlock(&video_open_lock);
	api->param_free(param);
	return encoder;
}

/* Parameter sets once, then slices only: where every frame is a key frame, x265 says the parameters before each. False: no room. */
static bool video_append(const x265_nal *nals, uint32_t count, bool parameters, uint8_t *out, size_t room, size_t *at)
{
	for (uint32_t i = 0; i < count; i++) {
		if ((nals[i].type >= VIDEO_NAL_VPS) != parameters)
			continue;
		if (nals[i].sizeBytes > room - *at)
			return false;
		memcpy(out + *at, nals[i].payload, nals[i].sizeBytes);
		*at += nals[i].sizeBytes;
	}
	return true;
}

size_t kvci_hevc_video_encode(const struct kvci_hevc_frames *frames, uint32_t qp, bool thorough, kvci_hevc_frame_fn fill, void *context,
                              uint16_t *samples, uint8_t *out, size_t room)
{
	const x265_api *api = x265_api_get(HEVC_SAMPLE_BITS);
	x265_picture picture;
	x265_encoder *encoder = api == NULL ? NULL : video_open(api, frames, qp, thorough, &picture);
	uint32_t nal_count = 0, out_frames = 0;
	x265_nal *nals;
	size_t at = 0;
	bool right;

	if (encoder == NULL)
		return 0;
	picture.planes[0] = samples;
	picture.stride[0] = (int)(frames->width * sizeof(*samples));
	picture.bitDepth = HEVC_SAMPLE_BITS;
	picture.colorSpace = X265_CSP_I400;
	right = api->encoder_headers(encoder, &nals, &nal_count) >= 0 && video_append(nals, nal_count, true, out, room, &at);
	for (uint32_t frame = 0; right && out_frames < frames->count; frame++) {
		int done;

		if (frame < frames->count) {
			fill(context, frame, samples, frames->width);
			picture.pts = frame;
		}
		done = api->encoder_encode(encoder, &nals, &nal_count, frame < frames->count ? &picture : NULL, NULL);
		right = done >= 0 && (done > 0 || frame < frames->count) && video_append(nals, nal_count, false, out, room, &at);
		out_frames += done > 0;
	}
	pthread_mutex_lock(&video_open_lock);
	api->encoder_close(encoder);
	pthread_mutex_unlock(&video_open_lock);
	return right ? at : 0;
}

/* ---- what a stream says it is -------------------------------------------------------------------------------------------------- */

struct video_bits {
	const uint8_t *at, *end;
	uint32_t zeros; /* bytes of 0 just before `at` */
	uint32_t left;  /* bits of `byte` not yet read */
	uint8_t byte;
	bool over;
};

static uint32_t video_bit(struct video_bits *bits)
{
	if (bits->left == 0) {
		if (bits->zeros >= 2 && bits->at < bits->end && *bits->at == 3) { /* put in so that no start code stands there */
			bits->at++;
			bits->zeros = 0;
		}
		if (bits->at == bits->end) {
			bits->over = true;
			return 0;
		}
		bits->byte = *bits->at++;
		bits->zeros = bits->byte == 0 ? bits->zeros + 1 : 0;
		bits->left = 8;
	}
	return bits->byte >> --bits->left & 1;
}

static uint32_t video_read(struct video_bits *bits, uint32_t count)
{
	uint32_t value = 0;

	for (; count > 0; count--)
		value = value << 1 | video_bit(bits);
	return value;
}

/* Exp-Golomb; beyond 2^16: over. */
static uint32_t video_read_ue(struct video_bits *bits)
{
	uint32_t zeros = 0;

	while (!bits->over && video_bit(bits) == 0)
		if (++zeros > 16)
			bits->over = true;
	return bits->over ? 0 : (1u << zeros) - 1 + video_read(bits, zeros);
}

/* An SPS of just these frames: one layer, gray, no window. */
static bool video_sps_right(const uint8_t *nal, size_t bytes, const struct kvci_hevc_frames *frames)
{
	struct video_bits bits = { .at = nal + VIDEO_NAL_HEAD_BYTES, .end = nal + bytes };
	uint32_t unit;
	bool right;

	video_read(&bits, 4); /* VPS */
	right = video_read(&bits, 3) == 0;
	video_read(&bits, 1);
	for (int i = 0; i < 12; i++) /* profile, tier, level */
		video_read(&bits, 8);
	video_read_ue(&bits); /* its number */
	right &= video_read_ue(&bits) == 0;
	right &= video_read_ue(&bits) == frames->width;
	right &= video_read_ue(&bits) == frames->height;
	right &= video_read(&bits, 1) == 0;
	right &= video_read_ue(&bits) == HEVC_SAMPLE_BITS - 8;
	video_read_ue(&bits); /* chroma, of which there is none */
	right &= video_read_ue(&bits) <= 12; /* bits of the picture's number, less 4 */
	video_read(&bits, 1);
	right &= video_read_ue(&bits) < VIDEO_PICTURES_MAX; /* held at a time, less 1 */
	video_read_ue(&bits); /* reordered */
	video_read_ue(&bits); /* late */
	unit = video_read_ue(&bits); /* smallest coding unit: 8 << unit */
	right &= unit <= 1 && unit + video_read_ue(&bits) == 1; /* the largest: HEVC_UNIT */
	return right && !bits.over;
}

static bool video_nal_right(const uint8_t *nal, size_t bytes, uint32_t index, const struct kvci_hevc_frames *frames)
{
	static const uint8_t parameters[VIDEO_PARAMETER_NALS] = { VIDEO_NAL_VPS, VIDEO_NAL_SPS, VIDEO_NAL_PPS };
	uint32_t type;

	if (bytes <= VIDEO_NAL_HEAD_BYTES || (nal[0] & 0x81) != 0 || nal[1] != 1) /* layer 0, the lowest sub-layer */
		return false;
	type = nal[0] >> 1;
	if (index < VIDEO_PARAMETER_NALS)
		return type == parameters[index] && (type != VIDEO_NAL_SPS || video_sps_right(nal, bytes, frames));
	/* One slice a frame: each is the first of its picture. */
	return (type == VIDEO_NAL_IDR_W_RADL || type == VIDEO_NAL_IDR_N_LP) && (nal[2] & 0x80) != 0;
}

/* The next NAL unit; false: none that is right. */
static bool video_nal_next(const uint8_t *stream, size_t bytes, size_t *at, const uint8_t **ret_nal, size_t *ret_bytes)
{
	const uint8_t *head = stream + *at;
	size_t length;

	if (bytes - *at < 4)
		return false;
	length = (size_t)head[0] << 24 | (size_t)head[1] << 16 | (size_t)head[2] << 8 | head[3];
	if (length > bytes - *at - 4)
		return false;
	*ret_nal = head + 4;
	*ret_bytes = length;
	*at += 4 + length;
	return true;
}

static bool video_stream_right(const struct kvci_hevc_frames *frames, const uint8_t *stream, size_t bytes)
{
	const uint8_t *nal;
	size_t at = 0, length;

	for (uint32_t i = 0; i < VIDEO_PARAMETER_NALS + frames->count; i++)
		if (!video_nal_next(stream, bytes, &at, &nal, &length) || !video_nal_right(nal, length, i, frames))
			return false;
	return at == bytes;
}

/* ---- decode ------------------------------------------------------------------------------------------------------------------- */

static int video_picture_get(de265_decoder_context *decoder, struct de265_image_spec *spec, struct de265_image *image, void *context)
{
	const struct kvci_hevc_frames *frames = context;
	size_t stride = (frames->width + VIDEO_PICTURE_PADDING - 1) / VIDEO_PICTURE_PADDING * VIDEO_PICTURE_PADDING;
	size_t bytes = (stride * frames->height + VIDEO_PICTURE_PADDING) * sizeof(uint16_t);
	uint8_t *samples;

	if (spec->width != (int)frames->width || spec->height != (int)frames->height || spec->format != de265_image_format_mono8)
		return 0;
	samples = kvci_alloc(bytes);
	if (samples == NULL)
		return 0;
	memset(samples, 0, bytes);
	de265_set_image_plane(image, 0, samples, (int)(stride * sizeof(uint16_t)), samples); /* in bytes */
	return 1;
}

static void video_picture_release(de265_decoder_context *decoder, struct de265_image *image, void *context)
{
	kvci_free(de265_get_image_plane_user_data(image, 0));
	de265_set_image_plane(image, 0, NULL, 0, NULL);
}

static bool video_push(de265_decoder_context *decoder, const struct kvci_hevc_frames *frames, const uint8_t *stream, size_t bytes)
{
	const uint8_t *nal;
	size_t at = 0, length;

	while (at < bytes)
		if (!video_nal_next(stream, bytes, &at, &nal, &length) || de265_push_NAL(decoder, nal, (int)length, 0, NULL) != DE265_OK)
			return false;
	return de265_flush_data(decoder) == DE265_OK;
}

/* Hands on the pictures that are ready; false: one is not as it must be. */
static bool video_take(de265_decoder_context *decoder, const struct kvci_hevc_frames *frames, uint32_t *done, kvci_hevc_frame_fn take,
                       void *context)
{
	const struct de265_image *image;

	while ((image = de265_get_next_picture(decoder)) != NULL) {
		int stride;
		const uint8_t *samples = de265_get_image_plane(image, 0, &stride);

		if (*done >= frames->count || samples == NULL || stride < 0 || de265_get_chroma_format(image) != de265_chroma_mono ||
		    de265_get_image_width(image, 0) != (int)frames->width || de265_get_image_height(image, 0) != (int)frames->height ||
		    de265_get_bits_per_pixel(image, 0) != HEVC_SAMPLE_BITS)
			return false;
		take(context, (*done)++, (uint16_t *)(void *)(uintptr_t)samples, (size_t)stride / sizeof(uint16_t));
	}
	return true;
}

static kvc_status_t video_run(de265_decoder_context *decoder, const struct kvci_hevc_frames *frames, kvci_hevc_frame_fn take, void *context)
{
	uint32_t done = 0;
	int more = 1;

	/* Far more turns than a right stream takes. */
	for (uint32_t turn = 0; more != 0 && turn < 64 + 16 * frames->count; turn++) {
		de265_error error = de265_decode(decoder, &more);

		if (error != DE265_OK || de265_get_warning(decoder) != DE265_OK || !video_take(decoder, frames, &done, take, context))
			return KVC_CORRUPT;
	}
	return more == 0 && done == frames->count ? KVC_OK : KVC_CORRUPT;
}

kvc_status_t kvci_hevc_video_decode(const struct kvci_hevc_frames *frames, const uint8_t *stream, size_t bytes, kvci_hevc_frame_fn take,
                                    void *context)
{
	struct de265_image_allocation pictures = { .get_buffer = video_picture_get, .release_buffer = video_picture_release };
	de265_decoder_context *decoder;
	kvc_status_t status = KVC_CORRUPT;

	if (bytes > INT32_MAX || !video_stream_right(frames, stream, bytes))
		return KVC_CORRUPT;
	pthread_mutex_lock(&video_open_lock);
	decoder = de265_new_decoder();
	pthread_mutex_unlock(&video_open_lock);
	if (decoder == NULL)
		return KVC_NO_MEMORY;
	de265_set_image_allocation_functions(decoder, &pictures, (void *)(uintptr_t)frames);
	if (video_push(decoder, frames, stream, bytes))
		status = video_run(decoder, frames, take, context);
	pthread_mutex_lock(&video_open_lock);
	de265_free_decoder(decoder);
	pthread_mutex_unlock(&video_open_lock);
	return status;
}
