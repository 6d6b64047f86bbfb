/*
 * fit.h
 *		What a table must be to be under dtx, and must stay.
 */
#ifndef DTX_AT_FIT_H
#define DTX_AT_FIT_H

#include "postgres.h"

#include "tcop/utility.h"
#include "utils/rel.h"

/*
 * ERROR when AT cannot log the table's changes, or find its rows again; altered: it is
 * attached, and a command makes it so; else it is to be attached.
 */
extern void fit_require(Relation rel, bool altered);

/*
 * Around a utility command: whatever it makes of attached tables, they are still fit
 * when it is over, or it fails. The first says whether it is such a command; then the
 * second is to follow when it is over, and the third whenever it ends, by an
 * error too.
 */
extern bool fit_watch(PlannedStmt *statement);
extern void fit_check_altered(PlannedStmt *statement);
extern void fit_watch_end(void);

/* The relation cache was told of a change of this relation; InvalidOid: of any. Never throws. */
extern void fit_note_change(Oid relid);

#endif							/* DTX_AT_FIT_H */
