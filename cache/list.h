/* SPDX-License-Identifier: Apache-2.0
 *
 * Circular list with links inside its elements. An empty list is a head that leads to itself; so does an element that is in no list.
 * Threads: pure.
 */
#ifndef KVCI_LIST_H
#define KVCI_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct kvci_list {
	struct kvci_list *next, *prev;
};

/* The element that `link` is the member `member` of. */
#define KVCI_LIST_OF(link, type, member) ((type *)(void *)((char *)(link) - offsetof(type, member)))

static inline void kvci_list_init(struct kvci_list *list)
{
	list->next = list;
	list->prev = list;
}

static inline bool kvci_list_empty(const struct kvci_list *list)
{
	return list->next == list;
}

static inline void kvci_list_append(struct kvci_list *list, struct kvci_list *link)
{
	link->next = list;
	link->prev = list->prev;
	list->prev->next = link;
	list->prev = link;
}

/* Also when it is in no list. */
static inline void kvci_list_remove(struct kvci_list *link)
{
	link->prev->next = link->next;
	link->next->prev = link->prev;
	kvci_list_init(link);
}

#endif
