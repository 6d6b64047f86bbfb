/*
 * node.h
 *		Which node this database is, and whether it still is.
 */
#ifndef DTX_NODE_H
#define DTX_NODE_H

#include "core/gid.h"

/*
 * This node's id, name.tag, with the name as node_name_encode has it. ERROR (DX002) when the database finds itself under
 * another identity: a template copy, a restored dump or a moved cluster does
 * not coordinate before dtx_node_adopt() or dtx_node_reset().
 */
extern const char *node_self(void);

/* The same without an error: NULL, and why not in *reason. */
extern const char *node_self_if_trusted(const char **reason);

/* Is this the id of this node, or one that it had before it was adopted? */
extern bool node_is_self(const char *node);

/* Its first id: who was told of this node before it was adopted knows it by that. */
extern const char *node_origin(void);

/* All ids of this node, the present one first: a List of char *. */
extern struct List *node_all_ids(void);

/*
 * The N from which dtx.branch and dtx.history remember every decision that was
 * taken under this id of this node; PG_UINT64_MAX when they remember none.
 */
extern uint64 node_memory_from(const char *node);

/* Note where this server's files lie, if a promoted standby's row has not got
 * that yet. In a transaction, only when the identity is trusted. */
extern void node_settle_in(void);

/* The timeline on which this server writes: a promoted standby's is later. */
extern uint32 node_timeline(void);

#endif							/* DTX_NODE_H */
