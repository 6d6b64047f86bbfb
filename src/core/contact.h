/*
 * contact.h
 *		dtx.contact: which (server, role) pairs may hold branches of this node.
 */
#ifndef DTX_CONTACT_H
#define DTX_CONTACT_H

#include "postgres.h"

#include "datatype/timestamp.h"

/*
 * See to it that the pair is recorded durably before its first branch: after a
 * crash the peers to ask are those in dtx.contact. The worker writes the row,
 * since this session's transaction may yet abort. Waits for it; ERROR 55000
 * when no worker takes the request within dtx.connect_timeout.
 */
extern void contact_ensure(Oid server, Oid role, TimestampTz deadline);

/* Is there a row for the pair, committed? */
extern bool contact_exists(Oid server, Oid role);

/* Was that node found at the server, when it was last used as the role? */
extern bool contact_leads_to(Oid server, Oid role, const char *node);

#endif							/* DTX_CONTACT_H */
