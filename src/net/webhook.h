/*
 * webhook.h
 *		Signatures of HTTP notifications, as the Standard Webhooks specification has
 *		them: HMAC-SHA256 of "id.timestamp.body", in base64, after "v1,".
 */
#ifndef DTX_WEBHOOK_H
#define DTX_WEBHOOK_H

#include "postgres.h"

#include "nodes/pg_list.h"

#define WEBHOOK_SECRET_PREFIX	"whsec_"
#define WEBHOOK_SIGNATURE_SIZE	48		/* "v1," and 44 characters, with the final zero */

#define WEBHOOK_MAX_KEYS	10

typedef struct WebhookKey
{
	int			length;
	uint8		key[64];
} WebhookKey;

/*
 * The keys in one or more secrets (whsec_ and 24 to 64 bytes in base64, separated by
 * white space): a List of WebhookKey *, palloc'd. NIL when the text is none, or more than
 * WEBHOOK_MAX_KEYS.
 */
extern List *webhook_keys(const char *secrets);

/* The signature with one key, "v1,..." into signature. */
extern void webhook_sign(const WebhookKey *key, const char *id, int64 timestamp, const char *body, Size length,
						 char *signature);

/* Is one of the signatures, separated by blanks, that of one of the keys? Takes the
 * same time wherever they differ. */
extern bool webhook_verify(List *keys, const char *id, int64 timestamp, const char *body, Size length,
						   const char *signatures);

/*
 * The id of a notification: name and tag of the node that sends it, and the tx_no, with
 * ':' between them, and each byte that is no letter, digit, '_' or '-' as %XX. So the
 * receiver knows them by what is signed. No dot: what is signed could be read as another
 * id and time. Palloc'd. origin: name.tag
 */
extern char *webhook_id(const char *origin, const char *tx_no);

/* Take such an id apart, into palloc'd strings. False: it is none. */
extern bool webhook_id_parse(const char *id, char **origin, char **tx_no);

#endif							/* DTX_WEBHOOK_H */
