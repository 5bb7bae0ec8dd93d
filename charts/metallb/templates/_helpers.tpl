{{- /* Nine tenths of a container's memory limit, for Go: beyond that, collecting garbage comes before asking for more. */}}
{{- define "metallb.gomemlimit" -}}
{{- $n := regexFind "^[0-9]+" . | int -}}
{{- if hasSuffix "Gi" . }}{{ $n = mul $n 1024 }}{{ end -}}
{{- div (mul $n 9) 10 }}MiB
{{- end }}

{{- define "metallb.tag" -}}
{{- .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* What no container needs it does not get. */}}
{{- define "metallb.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "metallb.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{- /* The remedy for a cluster that does not know a kind of the Prometheus operator. */}}
{{- define "metallb.needs" -}}
{{- $kind := printf "monitoring.coreos.com/v1/%s" .kind -}}
{{- if not (.root.Capabilities.APIVersions.Has $kind) -}}
{{- fail (printf "\n%s.enabled is true, but this cluster does not know %s: install the Prometheus operator first, or set %s.enabled to false. (helm template asks no cluster: tell it --api-versions=%s.)" .value $kind .value $kind) -}}
{{- end -}}
{{- end }}
