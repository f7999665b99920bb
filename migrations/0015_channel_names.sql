-- One name for one channel: Web Push is `web_push` in preferences too. `push` is still read.
ALTER TABLE preferences
    DROP CONSTRAINT preferences_channels_check,
    ADD CONSTRAINT preferences_channels_check
        CHECK (channels <@ ARRAY['web_push', 'push', 'email', 'sms', 'whatsapp', 'voice', 'webhook']);
