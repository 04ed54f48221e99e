/* SPDX-License-Identifier: Apache-2.0
 * A fake daemon and a client of it. Include after cmocka.h. */
#ifndef KVC_TESTS_CONNECTOR_WORLD_H
#define KVC_TESTS_CONNECTOR_WORLD_H

#include "fake_server.h"
#include "fixture.h"

struct world {
	struct fake_server server;
	struct fixture fixture;
	char target[128];
};

static inline void world_begin(struct world *world, uint32_t flags, uint32_t count)
{
	struct kvc_form form = fixture_form(4, 64);

	memset(&world->server, 0, sizeof(world->server));
	fake_start(&world->server);
	snprintf(world->target, sizeof(world->target), "unix:%s", world->server.path);
	fixture_open(&world->fixture, world->target, flags, &form, count);
}

static inline void world_end(struct world *world)
{
	fixture_close(&world->fixture);
	fake_stop(&world->server);
}

#endif
