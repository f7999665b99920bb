-- Takes push subscriptions over from "PushToken". Repeat it until the application writes to push_subscriptions itself:
-- what is there already is left alone. Browsers need not subscribe again if the VAPID keys stay the same.
INSERT INTO push_subscriptions (user_id, endpoint, p256dh, auth, created_at)
SELECT DISTINCT ON (endpoint) "userId", endpoint, p256dh, auth, "createdAt" AT TIME ZONE 'UTC'
FROM "PushToken"
CROSS JOIN LATERAL (
    SELECT "subscriptionJson" ->> 'endpoint' AS endpoint,
           "subscriptionJson" -> 'keys' ->> 'p256dh' AS p256dh,
           "subscriptionJson" -> 'keys' ->> 'auth' AS auth
) s
WHERE "platform" = 'WEB' AND "isActive" AND endpoint IS NOT NULL AND p256dh IS NOT NULL AND auth IS NOT NULL
-- One browser of two people: whoever signed in last.
ORDER BY endpoint, "createdAt" DESC
ON CONFLICT (endpoint) DO NOTHING;
