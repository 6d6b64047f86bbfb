/*
 * half.h
 *		Half messages: whether they are to be sent is not known yet.
 */
#ifndef DTX_HALF_H
#define DTX_HALF_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

/* In the worker, in a transaction: the roles (Oids) whose check functions are due to
 * be asked. *next: when to look again; 0: there is nothing to be checked. */
extern List *half_messages_due(TimestampTz *next);

/* In a process of the role's: ask about one that is due, each in a transaction of its
 * own. In no transaction. False: none was due; *next as above, for this role. */
extern bool half_message_check(Oid role, TimestampTz *next);

#endif							/* DTX_HALF_H */
