{{- /* What the names of objects begin with. What programs look for by name is as it is: both ConfigMaps, the Secret, the Lease, and the
account metallb-viewer. */}}
{{- define "metallb.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride }}
{{- else if not .Values.nameOverride -}}
metallb
{{- else if contains .Values.nameOverride .Release.Name -}}
{{ .Release.Name }}
{{- else -}}
{{ .Release.Name }}-{{ .Values.nameOverride }}
{{- end -}}
{{- end }}

{{- /* Nine tenths of a container's memory limit, for Go: beyond that, collecting garbage comes before asking for more. */}}
{{- define "metallb.gomemlimit" -}}
{{- $n := regexFind "^[0-9]+" . | int -}}
{{- if hasSuffix "Gi" . }}{{ $n = mul $n 1024 }}{{ end -}}
{{- div (mul $n 9) 10 }}MiB
{{- end }}

{{- define "metallb.tag" -}}
{{- .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* The image of a program. A parent chart's global.imageRegistry takes the place of the registry's host. */}}
{{- define "metallb.image" -}}
{{- $registry := .root.Values.image.registry -}}
{{- with (.root.Values.global).imageRegistry -}}
{{- $registry = regexReplaceAllLiteral "^[^/]*" $registry . -}}
{{- end -}}
{{- $tag := .tag | default (include "metallb.tag" .root) -}}
{{- $digest := index .root.Values.image.digests .component -}}
{{ $registry }}/{{ .program }}:{{ $tag }}{{ with $digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "metallb.pullSecrets" -}}
{{- with concat ((.Values.global).imagePullSecrets | default list) (.Values.imagePullSecrets | default list) -}}
imagePullSecrets:
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* What a Pod has from the values of its component. */}}
{{- define "metallb.podMetadata" -}}
{{- with .of.podAnnotations -}}
annotations:
  {{- toYaml . | nindent 2 }}
{{ end -}}
labels:
  {{- with .of.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  app.kubernetes.io/name: metallb
  app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "metallb.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- with .extraVolumes }}
volumes:
{{- toYaml . | nindent 0 }}
{{- end }}
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

{{- /* Flags that the chart sets, or whose default it counts on, are not for extraArgs: the last of two would win. */}}
{{- define "metallb.extraArgs" -}}
{{- $refused := .refused -}}
{{- $of := .component -}}
{{- range .args -}}
{{- $flag := splitList "=" . | first -}}
{{- if hasKey $refused $flag -}}
{{- fail (printf "\n%s.extraArgs: %s is the chart's to set: %s" $of $flag (get $refused $flag)) -}}
{{- end -}}
{{- end -}}
{{- toYaml .args -}}
{{- end }}

{{- /* The remedy for a cluster that does not know a kind of the Prometheus operator. */}}
{{- define "metallb.needs" -}}
{{- $kind := printf "monitoring.coreos.com/v1/%s" .kind -}}
{{- if not (.root.Capabilities.APIVersions.Has $kind) -}}
{{- $hint := printf "(helm template asks no cluster: tell it --api-versions=%s.)" $kind -}}
{{- $remedies := printf "install the Prometheus operator first, or set %s.enabled to false." .value -}}
{{- fail (printf "\n%s.enabled is true, but this cluster does not know %s: %s %s" .value $kind $remedies $hint) -}}
{{- end -}}
{{- end }}
