{{- define "carebell.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* At most 40 characters, so every suffix fits into 63. */}}
{{- define "carebell.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "carebell.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "carebell.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Labels of selectors, which can never change. */}}
{{- define "carebell.selector" -}}
app.kubernetes.io/name: {{ include "carebell.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "carebell.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "carebell.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "carebell.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- define "carebell.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "carebell.fullname" .) }}
{{- else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{/* `25s` or `2m` in seconds. The schema allows no other form. */}}
{{- define "carebell.seconds" -}}
{{- if hasSuffix "m" . }}{{ mul 60 (trimSuffix "m" .) }}{{ else }}{{ trimSuffix "s" . }}{{ end }}
{{- end }}

{{- define "carebell.secretName" -}}
{{- if .Values.secret.create }}{{ include "carebell.fullname" . }}{{ else }}{{ .Values.existingSecret }}{{ end }}
{{- end }}

{{/* The console's own. */}}
{{- define "carebell.adminSecretName" -}}
{{- if .Values.secret.create }}{{ include "carebell.fullname" . }}-admin{{ else }}{{ .Values.admin.existingSecret }}{{ end }}
{{- end }}

{{/* Variables that are no secrets, as `NAME: "value"`. Empty ones are not set. */}}
{{- define "carebell.config" -}}
{{- range $name, $value := .Values.config }}
{{- with $value | toString }}
{{ $name }}: {{ . | quote }}
{{- end }}
{{- end }}
{{- if .Values.public.enabled }}
PUBLIC_URL: {{ required "public.url says where providers reach the public port" .Values.public.url | quote }}
{{- end }}
{{- end }}

{{/*
Variables from a Secret. `env` overrides `envFrom`; a missing key leaves the ConfigMap's value. Named one by one, so
nothing else of the Secret enters the process.
*/}}
{{- define "carebell.credentials" -}}
{{- $secret := .secret }}
{{- $values := .root.Values.secret.values }}
{{- if .admin }}{{ $values = .root.Values.admin.secret }}{{ end }}
{{- range $name, $_ := $values }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $secret }}
      key: {{ $name }}
      optional: {{ ne $name "DATABASE_URL" }}
{{- end }}
{{- end }}

{{/* A container's files by variable, each with its volume. The setup may use another NATS user; the console must. */}}
{{- define "carebell.files" -}}
{{- $files := dict }}
{{- $given := .root.Values.files }}
{{- if .admin }}{{ $given = merge (dict "NATS_CA_FILE" .root.Values.files.NATS_CA_FILE) .root.Values.admin.files }}{{ end }}
{{- range $name, $file := $given }}
{{- if $file }}{{ $_ := set $files $name (merge (dict "volume" ($name | lower | replace "_" "-")) $file) }}{{ end }}
{{- end }}
{{- if and .setup .root.Values.setup.natsCreds }}
{{- $_ := set $files "NATS_CREDS" (merge (dict "volume" "setup-nats-creds") .root.Values.setup.natsCreds) }}
{{- end }}
{{- $files | toJson }}
{{- end }}

{{- define "carebell.fileEnv" -}}
{{- range $name, $file := include "carebell.files" . | fromJson }}
- name: {{ $name }}
  value: /etc/carebell/{{ $file.volume }}/{{ $file.key }}
{{- end }}
{{- if and .root.Values.templates (not .setup) (not .admin) }}
- name: TEMPLATES_DIR
  value: /etc/carebell/templates
{{- end }}
{{- end }}

{{- define "carebell.mounts" -}}
{{- range include "carebell.files" . | fromJson }}
- name: {{ .volume }}
  mountPath: /etc/carebell/{{ .volume }}
  readOnly: true
{{- end }}
{{- if and .root.Values.templates (not .setup) (not .admin) }}
- name: templates
  mountPath: /etc/carebell/templates
  readOnly: true
{{- end }}
{{- with .root.Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The program reads its files once, at start. */}}
{{- define "carebell.volumes" -}}
{{- $volumes := dict }}
{{- range .of }}
{{- range include "carebell.files" . | fromJson }}{{ $_ := set $volumes .volume . }}{{ end }}
{{- end }}
{{- range $name, $file := $volumes }}
- name: {{ $name }}
  {{- if $file.secret }}
  secret:
    secretName: {{ $file.secret }}
    defaultMode: 0440
  {{- else }}
  configMap:
    name: {{ $file.configMap }}
  {{- end }}
{{- end }}
{{- if and .root.Values.templates (not (first .of).setup) (not (first .of).admin) }}
- name: templates
  configMap:
    name: {{ include "carebell.fullname" .root }}-templates
    # A key of a ConfigMap cannot be a path.
    items:
      {{- range $path, $_ := .root.Values.templates }}
      - { key: {{ replace "/" "_" $path }}, path: {{ $path }} }
      {{- end }}
{{- end }}
{{- with .root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Common to all pods. */}}
{{- define "carebell.podCommon" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "carebell.containerCommon" -}}
image: {{ include "carebell.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- toYaml .Values.containerSecurityContext | nindent 2 }}
{{- end }}

{{- define "carebell.setupSecret" -}}
{{- if .Values.setup.existingSecret }}{{ .Values.setup.existingSecret }}
{{- else if and .Values.secret.create (eq .Values.setup.mode "hook") }}{{ include "carebell.fullname" . }}-setup
{{- else }}{{ include "carebell.secretName" . }}{{ end }}
{{- end }}

{{/* Steps of the setup, in an upgrade's order: tables, then streams. */}}
{{- define "carebell.setupSteps" -}}
{{- $steps := list }}
{{- if .Values.setup.migrate }}
{{- $arguments := ternary (list "migrate" "--care-tables") (list "migrate") .Values.setup.careTables }}
{{- $steps = append $steps (dict "name" "migrate" "args" $arguments) }}
{{- end }}
{{- if and .Values.setup.streams (not .Values.nack.enabled) }}
{{- $steps = append $steps (dict "name" "streams" "args" (list "streams" "apply")) }}
{{- end }}
{{- $steps | toJson }}
{{- end }}

{{/* A container of the setup. A hook runs before the chart's ConfigMap exists, and has its own. */}}
{{- define "carebell.setupContainer" -}}
{{- $of := dict "root" .root "setup" true "secret" (include "carebell.setupSecret" .root) -}}
name: {{ .step.name }}
{{ include "carebell.containerCommon" .root }}
args: {{ .step.args | toJson }}
envFrom:
  - configMapRef:
      name: {{ include "carebell.fullname" .root }}{{ if eq .root.Values.setup.mode "hook" }}-setup{{ end }}
env:
  {{- include "carebell.credentials" $of | nindent 2 }}
  {{- with include "carebell.fileEnv" $of }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with .root.Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
resources:
  {{- toYaml .root.Values.setup.resources | nindent 2 }}
{{- with include "carebell.mounts" $of }}
volumeMounts:
  {{- . | nindent 2 }}
{{- end }}
{{- end }}
